"""Checkpoint -> plan: what can be lowered, and the walk through the network."""

from __future__ import annotations

import math

from cgate.core.checkpoint import RANGES, Checkpoint
from cgate.core.errors import CgateError
from cgate.core.gates import GATE_KINDS
from cgate.core.network import THRESHOLD, Network, network_macs
from cgate.core.plan import Plan, Weights
from cgate.core.targets import Target
from cgate.export.assemble import Assembly
from cgate.export.choose import Limits, run_rates
from cgate.export.fold import fold
from cgate.export.lowering import INPUT, LOGIT_SCALE, LOGITS, Lowering
from cgate.export.quantize import (
    RangeTable,
    Scale,
    as_float32,
    gate_threshold,
    range_choice,
    signed_scale,
)
from cgate.export.stages import STEM, stages


def _check_supported(network: Network) -> None:
    """Refuse what has no integer form yet.

    Raises:
        CgateError: names the first block that cannot be lowered, and why.
    """
    convs = {"stem": (network.stem,), **{block.name: block.body for block in network.blocks}}
    for name, body in convs.items():
        for i, conv in enumerate(body, 1):
            if conv.groups not in (1, conv.in_channels):
                raise CgateError(
                    f"{name} cannot be exported: its convolution {i} has {conv.groups} groups of "
                    f"{conv.in_channels // conv.groups} input channels",
                    "exportable are ungrouped convolutions, and depthwise ones: as many groups "
                    "as input channels",
                )
    for block in network.gated:
        assert block.gate is not None
        refusal = GATE_KINDS[block.gate.kind].refusal
        if refusal:
            exportable = [name for name, kind in GATE_KINDS.items() if not kind.refusal]
            raise CgateError(
                f"{block.name} cannot be exported: its gate is {block.gate.kind!r}, and {refusal}",
                f"train with --gate {' or '.join(exportable)}",
            )
        if block.relu6:
            raise CgateError(
                f"{block.name} cannot be exported: it has a gate, and ReLU6 after its addition",
                "a gated block can end in ReLU or in nothing; ReLU6 can be inside its body",
            )


def _settled(checkpoint: Checkpoint, threshold: float) -> dict[str, bool]:
    """Whether the body runs, of the blocks whose gate is a constant."""
    cut = math.log(threshold / (1 - threshold))
    return {
        block.name: bool(checkpoint.weights[f"blocks.{block.name}.gate.bias"][0] > cut)
        for block in checkpoint.network.gated
        if block.gate is not None and block.gate.kind == "static"
    }


def lower(
    checkpoint: Checkpoint,
    target: Target,
    *,
    name: str = "model",
    threshold: float = THRESHOLD,
    ranges: str | None = None,
    kernels: str = "auto",
    limits: Limits | None = None,
) -> tuple[Plan, Weights]:
    """Make the plan of a checkpoint for a target.

    Args:
        name: C identifier that prefixes the generated code.
        threshold: a gate is open where sigmoid(logit) exceeds it.
        ranges: one of quantize.RANGE_CHOICES; None is the checkpoint's own, see `range_choice`.
        kernels: one of choose.CHOICES.
        limits: what the program may take of the target's memory; None: all of it.

    Returns:
        The plan and its int8 and int32 arrays by name.

    Raises:
        CgateError: a range is missing, a block cannot be lowered or quantised, or no choice of
            kernels fits the limits.
    """
    assembly = prepare(
        checkpoint, target, name=name, threshold=threshold, ranges=ranges, kernels=kernels
    )
    return assembly.plan(limits), assembly.draft.weights


def prepare(
    checkpoint: Checkpoint,
    target: Target,
    *,
    name: str = "model",
    threshold: float = THRESHOLD,
    ranges: str | None = None,
    kernels: str = "auto",
) -> Assembly:
    """Like `lower`, up to the choice of kernels: what is left depends on the limits alone."""
    network = checkpoint.network
    _check_supported(network)
    table = RangeTable(
        checkpoint.ranges,
        checkpoint.histograms,
        range_choice(checkpoint.card, ranges),
        str(checkpoint.folder / RANGES),
    )
    gate_threshold(threshold, LOGIT_SCALE)  # refused here, also where no gate is left
    settled = _settled(checkpoint, threshold)
    lowering = Lowering(fold(checkpoint), table, threshold, settled)
    pixels = Scale(as_float32(1 / network.input_divisor), network.input_zero - 128)
    lowering.tensor(INPUT, network.input_shape, pixels)
    parts = stages(network, table, settled)
    stem = lowering.conv("stem", INPUT, STEM, network.stem, parts[0].scale)
    stream = lowering.unit("stem", "stem", (INPUT,), [stem])
    if network.stem_pool is not None:
        stream = lowering.pool(network.stem_pool, STEM, stream, None)
    exits = {each.block: each for each in network.exits}
    # One scale for all answers: the output means the same whoever gave it. Nothing is clipped:
    # two classes at the same limit would be a tie.
    ends = [table.widest(name) for name in (*(f"{b}.exit.logits" for b in exits), LOGITS)]
    answers = signed_scale(min(low for low, _ in ends), max(high for _, high in ends))
    for stage in parts:
        for block, form in stage.blocks:
            stream = lowering.block(block, form, stream, stage.scale)
            if block.name in exits:
                lowering.exit(exits[block.name], stream, answers)
    lowering.head(stream, answers)
    names = checkpoint.card.get("data", {}).get("classes", [])
    classes = [str(each) for each in names] if len(names) == network.classes else []
    return Assembly(
        lowering,
        target,
        kernels,
        name=name,
        source_sha256=checkpoint.source_sha256,
        threshold=threshold,
        classes=classes or [str(i) for i in range(network.classes)],
        network=network,
        dense_macs=network_macs(network).dense,
        rates=run_rates(checkpoint.card, lowering.units),
    )

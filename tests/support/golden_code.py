"""Two small networks whose generated C is kept in tests/export/golden; run it to write that anew.

With the reference kernels, so that faster ones can change their tables without a diff here.
Their weights and ranges are made of integers and quotients alone, so that the plan, and with it the
code, is the same on every machine: no sums whose order depends on the processor.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS, load_checkpoint, weight_shapes
from cgate.core.files import write_bytes, write_json, write_text
from cgate.core.network import Block, Conv, Exit, Gate, Network
from cgate.core.targets import find_target
from cgate.export.emit_c import emit_c
from cgate.export.lower import lower

FOLDER = Path(__file__).parents[1] / "export" / "golden"
COMMAND = "make golden"

GATE = Gate("controller", 2)
BODY = (Conv(2, 2), Conv(2, 2, relu=False))
DOWN = (Conv(2, 4, 3, 2), Conv(4, 4, relu=False))

NETWORKS: Mapping[str, tuple[Network, str]] = {
    "gated": (
        Network(
            "gated",
            (8, 8, 1),
            64,
            32,
            3,
            Conv(1, 2),
            (Block("s1b0", BODY, "identity", GATE), Block("s2b0", DOWN, "pad", GATE)),
        ),
        "cortex-m4",
    ),
    "leaving": (
        Network(
            "leaving",
            (6, 5, 2),
            0,
            255,
            4,
            Conv(2, 2, 1),
            (Block("s1b0", BODY, "identity", None), Block("s1b1", BODY, "identity", GATE)),
            (Exit("s1b0", 0.75),),
        ),
        "cortex-m3",
    ),
}
"""Name -> network and target."""


def _write_checkpoint(folder: Path, network: Network) -> None:
    rng = np.random.default_rng(1)
    weights = {}
    for name, shape in weight_shapes(network).items():
        low, high = (32, 128) if name.endswith("running_var") else (-64, 65)
        weights[name] = (rng.integers(low, high, shape) / 64).astype(np.float32)
    write_bytes(folder / WEIGHTS, save(weights))
    classes = [f"class{i}" for i in range(network.classes)]
    value = {"schema": 1, "network": network.to_json(), "data": {"classes": classes}}
    write_json(folder / CARD, value)
    names = ["stem", "head.mean", "head.logits"]
    for block in network.blocks:
        parts = ["conv1", "conv2", "shortcut", "out", "exit.mean", "exit.logits"]
        parts += [f"gate.{what}" for what in ("mean", "hidden", "logit")]
        names += [f"{block.name}.{part}" for part in parts]
    tensors = {}
    for place, name in enumerate(names, 3):
        ends = (-place / 4, place / 2)
        fields = ("low", "high", "low_quantile", "high_quantile")
        tensors[name] = {"open": dict(zip(fields, ends * 2, strict=True))}
    write_json(folder / RANGES, {"schema": 1, "tensors": tensors})


def generate(name: str) -> Mapping[str, str]:
    """The C of a network of NETWORKS, by file name.

    Hashes are zeros: they would change with every field of a card or a plan.
    """
    network, target = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        _write_checkpoint(Path(folder), network)
        checkpoint = load_checkpoint(Path(folder))
        plan, weights = lower(
            checkpoint, find_target(target), name=name, ranges="minmax", kernels="ref"
        )
    return emit_c(replace(plan, source_sha256="00" * 32), weights, "00" * 32)


def main() -> None:
    """Write the kept code anew."""
    files = {path: text for name in NETWORKS for path, text in generate(name).items()}
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path, text in files.items():
        write_text(FOLDER / path, text)


if __name__ == "__main__":
    main()

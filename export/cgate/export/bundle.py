"""`cgate export`: a checkpoint or a network file in, one bundle out, checked against the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgate.core.checkpoint import load_checkpoint
from cgate.core.errors import CgateError
from cgate.core.files import replaced_folder, write_bytes
from cgate.core.network import THRESHOLD
from cgate.core.plan import (
    PLAN,
    Addition,
    Choice,
    Decision,
    Plan,
    Scratched,
    Unit,
    Weights,
    plan_files,
    plan_sha256,
)
from cgate.core.progress import Progress, Silent
from cgate.core.targets import Target
from cgate.export.choose import MILLION, Limits
from cgate.export.emit_c import check_name, emit_c
from cgate.export.emit_onnx import emit_onnx, require_onnx
from cgate.export.emit_tflite import emit_tflite
from cgate.export.emit_tflite_network import NETWORK_FILE, emit_tflite_network
from cgate.export.import_tflite import import_tflite, network_name
from cgate.export.kernels import constants_sizes
from cgate.export.lower import lower

README = """\
{name}: {network} for {target}, exported by cgate.

plan.json, weights.npz   every integer of the network; the source of everything below
c/                       C11 for the firmware library of cgate: {name}_run() is one inference
model.tflite             {file}
units/*.tflite           one per unit; all of them exact under TFLite's reference kernels
{onnx}
  cgate build .          compile and link for {target}
  cgate run .            run images under QEMU
  cgate verify .         compare reference, TFLite, host C and QEMU bit for bit
"""

GATED_FILE = "the whole network in int8; a skipped body is a branch of IF not taken"
IMPORTED_FILE = "the network as it came, byte for byte; what all else is compared with"

ONNX_README = """\
model.onnx, units/*.onnx the float network, with If, and its units: close, not exact
"""


def arena_end(plan: Plan, unit: Unit) -> int:
    """How far into the arena, in bytes, a unit reaches; that of the plan's peak is its size."""
    ends = [0]
    for op in unit.ops:
        names = [op.input] if isinstance(op, Decision) else [op.input, op.output]
        names += [op.stream] if isinstance(op, Addition) else []
        for tensor in map(plan.tensor, names):
            ends.append(0 if tensor.offset is None else tensor.offset + tensor.size)
        if isinstance(op, Scratched) and op.scratch is not None:
            ends.append(sum(op.scratch))
    return max(ends)


@dataclass(frozen=True)
class Summary:
    """What an export made, known before anything is compiled; sizes in bytes."""

    out: Path
    plan: Plan
    target: Target
    plan_sha256: str
    unit_flash: tuple[int, ...]  # weights and tables of each unit

    @property
    def choice(self) -> Choice:
        """How the kernels were chosen, and what flash and RAM are estimated."""
        assert self.plan.choice is not None  # lower() always says
        return self.plan.choice

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        plan = self.plan
        return {
            "bundle": str(self.out),
            "name": plan.name,
            "network": plan.network.name,
            "target": self.target.name,
            "plan_sha256": self.plan_sha256,
            "threshold": plan.threshold,
            "weights_bytes": sum(self.unit_flash),
            "flash_estimate_bytes": self.choice.flash,
            "flash_limit_bytes": self.choice.flash_limit,
            "arena_bytes": plan.arena_size,
            "ram_estimate_bytes": self.choice.ram,
            "ram_limit_bytes": self.choice.ram_limit,
            "cost_unit": self.choice.unit,
            "cost_expected": self.choice.expected,
            "cost_worst": self.choice.worst,
            "dense_macs": plan.dense_macs,
            "units": [
                {
                    "name": unit.name,
                    "macs": unit.macs,
                    "gated": unit.condition is not None,
                    "runs": rate / MILLION,
                    "flash_bytes": flash,
                    "arena_bytes": arena_end(plan, unit),
                }
                for unit, rate, flash in zip(
                    plan.units, self.choice.rates, self.unit_flash, strict=True
                )
            ],
        }


def export_checkpoint(
    checkpoint_folder: Path,
    out: Path,
    target: Target,
    *,
    name: str = "model",
    threshold: float = THRESHOLD,
    ranges: str | None = None,
    kernels: str = "auto",
    onnx: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write the bundle of a checkpoint: plan, C, TFLite, a README, and ONNX if asked for.

    The folder appears only when everything is written; an older bundle there is replaced.

    Raises:
        CgateError: bad checkpoint, name or threshold; the target is too small; cannot write; the
            package onnx is needed and missing.
    """
    progress = progress or Silent()
    check_name(name)
    if onnx:
        require_onnx()
    progress.start("export", 4)
    checkpoint = load_checkpoint(checkpoint_folder)
    progress.advance(note="checkpoint read")
    plan, weights = lower(
        checkpoint,
        target,
        name=name,
        threshold=threshold,
        ranges=ranges,
        kernels=kernels,
        limits=limits,
    )

    def whole() -> Mapping[str, bytes]:
        files = {NETWORK_FILE: emit_tflite_network(plan, weights)}
        return {**files, **emit_onnx(plan, checkpoint)} if onnx else files

    readme = README.format(
        name=plan.name,
        network=plan.network.name,
        target=target.name,
        file=GATED_FILE,
        onnx=ONNX_README if onnx else "",
    )
    return _write(out, target, plan, weights, whole, readme, progress)


def export_tflite(
    path: Path,
    out: Path,
    target: Target,
    *,
    name: str = "model",
    kernels: str = "auto",
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write the bundle of an int8 .tflite network, which runs as it is: without gates.

    Raises:
        CgateError: the file cannot be read or imported; bad name; the target is too small; cannot
            write.
    """
    progress = progress or Silent()
    check_name(name)
    progress.start("import", 4)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CgateError(f"cannot read {path}: {error.strerror}") from error
    progress.advance(note="file read")
    plan, weights = import_tflite(
        content,
        str(path),
        target,
        network=network_name(path),
        name=name,
        kernels=kernels,
        limits=limits,
    )
    readme = README.format(
        name=plan.name,
        network=plan.network.name,
        target=target.name,
        file=IMPORTED_FILE,
        onnx="",
    )
    return _write(out, target, plan, weights, lambda: {NETWORK_FILE: content}, readme, progress)


def _write(
    out: Path,
    target: Target,
    plan: Plan,
    weights: Weights,
    whole: Callable[[], Mapping[str, bytes]],
    readme: str,
    progress: Progress,
) -> Summary:
    """Write all files that follow from a plan.

    Args:
        whole: the files of the whole network, by name within the bundle.
    """
    files = plan_files(plan, weights)
    digest = plan_sha256(files)
    summary = Summary(out, plan, target, digest, constants_sizes(plan, weights))
    progress.advance(note="planned")
    files |= {f"c/{path}": text.encode() for path, text in emit_c(plan, weights, digest).items()}
    files |= emit_tflite(plan, weights)
    files |= whole()
    files["README.txt"] = readme.encode()
    progress.advance(note="emitted")
    with replaced_folder(out, PLAN) as folder:
        for path, data in files.items():
            write_bytes(folder / path, data)
    progress.advance(note="written")
    return summary

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
from cgate.core.plan import PLAN, Choice, Plan, Unit, Weights, plan_files, plan_sha256
from cgate.core.progress import Progress, Silent
from cgate.core.targets import Target, size_text
from cgate.export.choose import Limits
from cgate.export.emit_c import check_name, emit_c
from cgate.export.emit_onnx import emit_onnx, require_onnx
from cgate.export.emit_tflite import emit_tflite
from cgate.export.emit_tflite_network import NETWORK_FILE, emit_tflite_network
from cgate.export.import_tflite import import_tflite, network_name
from cgate.export.kernels import constants_size
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


@dataclass(frozen=True)
class Summary:
    """What an export made; sizes in bytes, costs in MACs per image."""

    out: Path
    plan: Plan
    target: Target
    plan_sha256: str
    weights_size: int

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
            "weights_bytes": self.weights_size,
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
                {"name": unit.name, "macs": unit.macs, "gated": unit.condition is not None}
                for unit in plan.units
            ],
        }

    def lines(self) -> list[str]:
        """For people: a line per unit, then the totals."""
        plan, target, choice = self.plan, self.target, self.choice
        width = max(len(unit.name) for unit in plan.units)

        def remark(unit: Unit) -> str:
            if unit.role == "exit":
                return f"  leaves if its margin is above {unit.threshold}"
            return "" if unit.condition is None else "  runs if its gate is open"

        rows = [
            f"  {unit.name:<{width}}  {unit.macs / 1000:>10,.1f} kMAC{remark(unit)}"
            for unit in plan.units
        ]
        gates = sum(unit.macs for unit in plan.gates)
        deciders = "gates and exits add" if plan.exits else "gates add"
        return [
            f"{plan.network.name} for {target.name} ({target.core})",
            *rows,
            f"MACs   {plan.dense_macs:,} dense, {deciders} {gates:,} "
            f"({100 * gates / plan.dense_macs:.2f} %)",
            _cost(choice),
            f"flash  about {size_text(choice.flash)} of {size_text(choice.flash_limit)}: "
            f"weights {size_text(self.weights_size)}, the rest code",
            f"RAM    about {size_text(choice.ram)} of {size_text(choice.ram_limit)}: "
            f"arena {size_text(plan.arena_size)}, the rest input, output, stack",
            f"bundle {self.out}",
        ]


def _cost(choice: Choice) -> str:
    """A line on what an inference costs."""
    unit = {"cycles_flash": "cycles with this flash"}.get(choice.unit, choice.unit)
    always = choice.expected == choice.worst
    often = "" if always else f" if all units run, {choice.expected:,} expected"
    beyond = f", {100 * choice.extrapolated / choice.worst:.0f} % of it extrapolated"
    unknown = f", without {choice.unmeasured} ops whose cost was never measured"
    return (
        f"cost   about {choice.worst:,} {unit}{often}"
        f"{beyond if choice.extrapolated else ''}{unknown if choice.unmeasured else ''}"
    )


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
    summary = Summary(out, plan, target, digest, constants_size(plan, weights))
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

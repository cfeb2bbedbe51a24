"""The plan: every integer of an exported network, and how units are run or skipped.

`plan.json` + `weights.npz` (SPEC.md, section 6). Export writes it; reference, emitters and host
tools read it and add nothing of their own.
"""

from __future__ import annotations

import io
import types
import typing
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import CgateError
from cgate.core.files import json_text, read_json, sha256
from cgate.core.imported import ImportedNetwork, imported_from_json, is_imported
from cgate.core.network import Network, network_from_json
from cgate.core.npz import read_npz

SCHEMA = 1
ROUNDING = "tflite-double"
MAX_NUMBER = 1e300
PLAN = "plan.json"
WEIGHTS = "weights.npz"


@dataclass(frozen=True)
class Tensor:
    """An int8 activation: real value = scale * (q - zero_point).

    Args:
        shape: height, width, channels.
        scale: a float32 value.
        offset: first byte in the arena; None for the network's input and output, which the caller
            owns. Tensors with the same offset and overlapping lifetimes are the same memory (a
            stream).
    """

    name: str
    shape: tuple[int, int, int]
    scale: float
    zero_point: int
    offset: int | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.shape[0] * self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class Convolution:
    """What both kinds of convolution have. `weights` .. `shift` are names in weights.npz.

    `scale` is the weights' float32 scale per output channel: formats that carry scales (TFLite)
    need it, the arithmetic does not. `scratch` is the place in the arena and the size, in bytes, of
    what the kernel needs besides. `cost`, here and below, is of one run of `kernel`, estimated, in
    the unit of the plan's choice.
    """

    op: ClassVar[str]
    input: str
    output: str
    weights: str
    scale: str
    bias: str
    multiplier: str
    shift: str
    stride: int
    padding: tuple[int, int, int, int]
    clamp: tuple[int, int]
    macs: int
    kernel: str
    why: str
    scratch: tuple[int, int] | None = None
    cost: int = 0


@dataclass(frozen=True)
class Conv2d(Convolution):
    """SPEC 5.2: weights (out, kh, kw, in)."""

    op: ClassVar[str] = "conv2d"


@dataclass(frozen=True)
class FullyConnected(Conv2d):
    """SPEC 5.13: a convolution whose factor TFLite rounds otherwise; all weights have one scale."""

    op: ClassVar[str] = "fully_connected"


@dataclass(frozen=True)
class DepthwiseConv2d(Convolution):
    """SPEC 5.8: weights (1, kh, kw, out); output channel o sees input channel o // (out / in)."""

    op: ClassVar[str] = "depthwise_conv2d"


@dataclass(frozen=True)
class Pool:
    """What both kinds of pooling have (SPEC 5.9); input and output share scale and zero point.

    Args:
        size: height and width of the window.
        padding: top, left, bottom, right; it holds no values: a window ends where the map ends.
        macs: one per element of a window.
    """

    op: ClassVar[str]
    input: str
    output: str
    size: tuple[int, int]
    stride: int
    padding: tuple[int, int, int, int]
    clamp: tuple[int, int]
    macs: int
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class MaxPool2d(Pool):
    """SPEC 5.9: the largest of each window."""

    op: ClassVar[str] = "max_pool2d"


@dataclass(frozen=True)
class AvgPool2d(Pool):
    """SPEC 5.9: the rounded mean of each window."""

    op: ClassVar[str] = "avg_pool2d"


@dataclass(frozen=True)
class Mean:
    """SPEC 5.3."""

    op: ClassVar[str] = "mean"
    input: str
    output: str
    multiplier: int
    shift: int
    macs: int
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class MeanMax:
    """SPEC 5.7: two statistics of each channel side by side, the mean at a scale of its own.

    `mean_scale` is that scale, a float32 value: formats that carry scales (TFLite) need it.
    """

    op: ClassVar[str] = "mean_max"
    input: str
    output: str
    mean_scale: float
    multiplier: int
    shift: int
    macs: int
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class ShortcutPad:
    """SPEC 5.5."""

    op: ClassVar[str] = "shortcut_pad"
    input: str
    output: str
    stride: int
    channels_before: int
    multiplier: int
    shift: int
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class ResidualAdd:
    """SPEC 5.4: `output` is `stream` after `input` (F) has been added, in the same memory."""

    op: ClassVar[str] = "residual_add"
    input: str
    stream: str
    output: str
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class Add:
    """SPEC 5.10: `output` is `stream` + `input`, each at its own scale, in the memory of `stream`.

    Args:
        multiplier, shift: of the input, of the stream, of the output.
    """

    op: ClassVar[str] = "add"
    input: str
    stream: str
    output: str
    multiplier: tuple[int, int, int]
    shift: tuple[int, int, int]
    clamp: tuple[int, int]
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class Softmax:
    """SPEC 5.12, over the channels. `table` is a name in weights.npz: int32 [256].

    `beta` is a float32 value: formats that carry it (TFLite) need it, the arithmetic does not.
    """

    op: ClassVar[str] = "softmax"
    input: str
    output: str
    table: str
    beta: float
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class Threshold:
    """SPEC 4: open iff the logit `input` > `value`."""

    op: ClassVar[str] = "threshold"
    input: str
    value: int


@dataclass(frozen=True)
class Margin:
    """SPEC 4.1: go on iff the two largest of the logits `input` differ by at most `value`."""

    op: ClassVar[str] = "margin"
    input: str
    value: int


Decision = Threshold | Margin
Addition = ResidualAdd | Add
"""Ops that write over one of the two tensors that they read, their `stream`."""

Counted = Conv2d | DepthwiseConv2d | MaxPool2d | AvgPool2d | Mean | MeanMax
KernelOp = Counted | ShortcutPad | Addition | Softmax
Op = KernelOp | Threshold | Margin
OPS: dict[str, type[Op]] = {
    kind.op: kind
    for kind in (
        *(Conv2d, FullyConnected, DepthwiseConv2d, MaxPool2d, AvgPool2d, Mean, MeanMax),
        *(ShortcutPad, ResidualAdd, Add, Softmax, Threshold, Margin),
    )
}
ROLES = ("stem", "gate", "body", "shortcut", "pool", "layer", "exit", "head")


@dataclass(frozen=True)
class Unit:
    """A piece of the network that is run or skipped as a whole.

    Args:
        index: its place in the order of execution; also its marker id.
        condition: name of the gate unit that must be open, None if the unit always runs.
        inputs: tensors of other units that it reads. The last one of a unit with a condition is
            the stream: what `output` is, in the same memory, where the unit does not run.
        output: the tensor it leaves; a gate's is its logit, an exit's are its logits.
    """

    index: int
    name: str
    role: str
    block: str | None
    condition: str | None
    inputs: tuple[str, ...]
    output: str
    macs: int
    ops: tuple[Op, ...]

    @property
    def stream(self) -> str:
        """What stands in the place of `output` where the unit's gate is shut."""
        return self.inputs[-1]

    @property
    def threshold(self) -> int:
        """The integer a gate compares its logit with, or an exit its margin."""
        for op in self.ops:
            if isinstance(op, Decision):
                return op.value
        raise ValueError(f"{self.name} is no gate")


@dataclass(frozen=True)
class Choice:
    """How the kernels were chosen, and what is estimated of the program that they make.

    Args:
        kernels: as asked for.
        unit: what costs count: "instructions", "cycles" or "cycles_flash" (SPEC.md 12).
        flash_limit: bytes.
        ram_limit: bytes.
        flash: bytes.
        ram: bytes.
        expected: cost of an inference, each unit weighed by how often it runs.
        worst: cost of an inference in which all units run.
        extrapolated: the part of `worst` that lies beyond the shapes that were measured.
        unmeasured: ops whose kernel was never measured; they count as 0.
        rates: how often each unit runs, per million images, in the order of the units.
    """

    kernels: str
    unit: str
    flash_limit: int
    ram_limit: int
    flash: int
    ram: int
    expected: int
    worst: int
    extrapolated: int
    unmeasured: int
    rates: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A whole exported network; SPEC section 6 explains the fields."""

    name: str
    target: str
    source_sha256: str
    rounding: str
    threshold: float
    input: str
    output: str
    dense_macs: int
    arena_size: int
    classes: tuple[str, ...]
    network: Network | ImportedNetwork
    tensors: tuple[Tensor, ...]
    units: tuple[Unit, ...]
    choice: Choice | None = None

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    @property
    def gates(self) -> tuple[Unit, ...]:
        """The units that decide, in order: gates, and exits, which are gates on all that follows.

        This is the order of decisions in traces and on the wire.
        """
        return tuple(unit for unit in self.units if unit.role in ("gate", "exit"))

    @property
    def exits(self) -> tuple[Unit, ...]:
        """The exit units, in order."""
        return tuple(unit for unit in self.units if unit.role == "exit")

    def ran(self, opened: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which units run: (images, units), for the gates' `opened` (images, gates).

        A unit runs iff no exit before it was shut and the gate it depends on, if any, was open.
        """
        place = {unit.name: i for i, unit in enumerate(self.gates)}
        ran = np.ones((len(opened), len(self.units)), bool)
        going = np.ones(len(opened), bool)
        for unit in self.units:
            ran[:, unit.index] = going
            if unit.condition is not None:
                ran[:, unit.index] &= opened[:, place[unit.condition]]
            if unit.role == "exit":
                going &= opened[:, place[unit.name]]
        return ran

    def executed_macs(self, ran: NDArray[np.bool_]) -> NDArray[np.int64]:
        """MACs per image, for `ran` (images, units)."""
        macs = np.array([unit.macs for unit in self.units], np.int64)
        product: NDArray[np.int64] = ran.astype(np.int64) @ macs
        return product


Weights = Mapping[str, NDArray[Any]]


def plan_files(plan: Plan, weights: Weights) -> dict[str, bytes]:
    """`plan.json` and `weights.npz` as bytes, the same on every machine and run."""
    value = {"schema": SCHEMA, **asdict(plan)}
    value["network"] = plan.network.to_json()
    value["units"] = [
        {**asdict(unit), "ops": [{"kind": op.op, **asdict(op)} for op in unit.ops]}
        for unit in plan.units
    ]
    archive = io.BytesIO()
    # Written by hand rather than by np.savez: fixed member dates and order, on every platform.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        for name in sorted(weights):
            data = io.BytesIO()
            np.save(data, np.ascontiguousarray(weights[name]), allow_pickle=False)
            members.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())
    return {PLAN: json_text(value).encode("utf-8"), WEIGHTS: archive.getvalue()}


def plan_sha256(files: Mapping[str, bytes]) -> str:
    """The plan's identity: SHA-256 over plan.json followed by weights.npz."""
    return sha256(files[PLAN] + files[WEIGHTS])


def _convert(value: Any, kind: Any, where: str) -> Any:
    """`value` of parsed JSON as the annotated type `kind`, or a CgateError that names `where`."""
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        return _convert(value, next(item for item in options if item is not type(None)), where)
    if origin is tuple:
        items = typing.get_args(kind)
        if not isinstance(value, list):
            raise CgateError(f"{where} should be a list")
        if len(items) == 2 and items[1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise CgateError(f"{where} should have {len(items)} items, has {len(value)}")
        return tuple(
            _convert(item, each, f"{where}[{i}]")
            for i, (item, each) in enumerate(zip(value, items, strict=True))
        )
    if is_dataclass(kind):
        return _record(value, typing.cast(type, kind), where)
    if kind is float and type(value) in (int, float):
        # Beyond is no float, or infinite; NaN compares as false.
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise CgateError(f"{where} is no finite number")
        return float(value)
    if type(value) is not kind:
        raise CgateError(f"{where} should be {kind.__name__}, is {type(value).__name__}")
    return value


def _record(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, dict):
        raise CgateError(f"{where} should be an object")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    missing = [name for name in names if name not in value]
    unknown = sorted(value.keys() - set(names))
    if missing or unknown:
        raise CgateError(
            f"{where}: " + (f"{missing[0]!r} is missing" if missing else f"unknown {unknown[0]!r}")
        )
    return kind(**{name: _convert(value[name], hints[name], f"{where}.{name}") for name in names})


def _unit(value: Any, where: str) -> Unit:
    if not isinstance(value, dict) or not isinstance(value.get("ops"), list):
        raise CgateError(f"{where}.ops should be a list")
    ops: list[Op] = []
    for i, item in enumerate(value["ops"]):
        kind = item.get("kind") if isinstance(item, dict) else None
        if not isinstance(kind, str) or kind not in OPS:
            raise CgateError(f"{where}.ops[{i}]: kind {kind!r} is none of {', '.join(OPS)}")
        fields_ = {key: each for key, each in item.items() if key != "kind"}
        ops.append(_record(fields_, OPS[kind], f"{where}.ops[{i}]"))
    rest = {key: each for key, each in value.items() if key != "ops"}
    unit = typing.cast(Unit, _record({**rest, "ops": []}, Unit, where))
    return Unit(**{**{f.name: getattr(unit, f.name) for f in fields(Unit)}, "ops": tuple(ops)})


def plan_from_json(value: Any, where: str = "plan") -> Plan:
    """Check and read parsed plan.json.

    Raises:
        CgateError: a field is missing, unknown, of the wrong type, or refers to nothing.
    """
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CgateError(f"{where}: schema is not {SCHEMA}", "export the checkpoint again")
    for key in ("network", "units"):
        if key not in value:
            raise CgateError(f"{where}: {key!r} is missing")
    read = imported_from_json if is_imported(value["network"]) else network_from_json
    network = read(value["network"], f"{where}.network")
    if not isinstance(value["units"], list):
        raise CgateError(f"{where}.units should be a list")
    units = tuple(_unit(item, f"{where}.units[{i}]") for i, item in enumerate(value["units"]))
    hints = typing.get_type_hints(Plan)
    simple: dict[str, Any] = {}
    for field in fields(Plan):
        if field.name in ("network", "units"):
            continue
        if field.name not in value:
            raise CgateError(f"{where}: {field.name!r} is missing")
        simple[field.name] = _convert(value[field.name], hints[field.name], f"{where}.{field.name}")
    plan = Plan(**simple, network=network, units=units)
    if plan.rounding != ROUNDING:
        raise CgateError(f"{where}: rounding {plan.rounding!r} is not {ROUNDING!r}")
    _check_references(plan, where)
    return plan


def _check_references(plan: Plan, where: str) -> None:
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    if len(tensors) != len(plan.tensors):
        raise CgateError(f"{where}: two tensors have the same name")
    for tensor in plan.tensors:
        if not (0 < tensor.scale < float("inf") and -128 <= tensor.zero_point <= 127):
            raise CgateError(f"{where}: tensor {tensor.name} has no legal scale and zero point")
        if any(not 1 <= n <= 65535 for n in tensor.shape):
            raise CgateError(f"{where}: tensor {tensor.name} has shape {list(tensor.shape)}")
        if tensor.offset is not None and not 0 <= tensor.offset <= plan.arena_size - tensor.size:
            raise CgateError(f"{where}: tensor {tensor.name} lies outside the arena")
    for name in (plan.input, plan.output):
        if name not in tensors:
            raise CgateError(f"{where}: there is no tensor {name!r}")
    gates: set[str] = set()
    for i, unit in enumerate(plan.units):
        if unit.index != i or unit.role not in ROLES:
            raise CgateError(f"{where}.units[{i}]: index {unit.index}, role {unit.role!r}")
        if unit.condition is not None and unit.condition not in gates:
            raise CgateError(f"{where}.units[{i}]: no gate {unit.condition!r} before it")
        names = [*unit.inputs, unit.output]
        for op in unit.ops:
            names += [op.input] if isinstance(op, Decision) else [op.input, op.output]
            names += [op.stream] if isinstance(op, Addition) else []
            if isinstance(op, Convolution) and op.scratch is not None:
                offset, size = op.scratch
                if offset % 16 != 0 or not 0 <= offset <= plan.arena_size - size:
                    raise CgateError(f"{where}.units[{i}] ({unit.name}): scratch outside the arena")
        for name in names:
            if name not in tensors:
                raise CgateError(f"{where}.units[{i}] ({unit.name}): no tensor {name!r}")
        if unit.condition is not None:
            kept, output = tensors[unit.stream] if unit.inputs else None, tensors[unit.output]
            if kept is None or replace(kept, name=output.name) != output:
                raise CgateError(
                    f"{where}.units[{i}] ({unit.name}): its output does not replace its last input"
                )
        if unit.role == "gate":
            gates.add(unit.name)
        if unit.role == "exit":
            answer, output = tensors[unit.output], tensors[plan.output]
            same = replace(answer, name=output.name) == output and answer.offset is None
            if not unit.ops or not isinstance(unit.ops[-1], Margin) or not same:
                raise CgateError(
                    f"{where}.units[{i}] ({unit.name}): an exit must end in a margin, and its "
                    "logits be like the network's output"
                )


@dataclass(frozen=True)
class Bundle:
    """A plan with its weights, as read from a bundle folder."""

    folder: Path
    plan: Plan
    weights: Weights
    sha256: str


def load_bundle(folder: Path) -> Bundle:
    """Read and check plan.json and weights.npz of a bundle.

    Raises:
        CgateError: a file is missing, corrupt, or the two do not belong together.
    """
    if not folder.is_dir():
        raise CgateError(
            f"there is no bundle folder {folder}",
            "a bundle is the folder that `cgate export CHECKPOINT --out FOLDER` writes",
        )
    path = folder / PLAN
    plan = plan_from_json(read_json(path, "the bundle's plan"), str(path))
    archive = folder / WEIGHTS
    try:
        files = {PLAN: path.read_bytes(), WEIGHTS: archive.read_bytes()}
        weights = read_npz(files[WEIGHTS])
    except (OSError, ValueError) as e:
        raise CgateError(
            f"the bundle's weights cannot be read: {archive}: {e}", "export the checkpoint again"
        ) from e
    for unit in plan.units:
        for op in unit.ops:
            if isinstance(op, Conv2d | DepthwiseConv2d):
                _check_weights(plan, op, weights, str(archive))
            if isinstance(op, Softmax):
                table = weights.get(op.table)
                if table is None or table.dtype != np.int32 or table.shape != (256,):
                    raise CgateError(f"{archive}: {op.table} is missing or not int32[256]")
    return Bundle(folder, plan, weights, plan_sha256(files))


def _check_weights(plan: Plan, op: Conv2d | DepthwiseConv2d, weights: Weights, where: str) -> None:
    outputs = plan.tensor(op.output).shape[2]
    inputs = plan.tensor(op.input).shape[2]
    for name, dtype in (
        (op.scale, np.float32),
        (op.bias, np.int32),
        (op.multiplier, np.int32),
        (op.shift, np.int8),
    ):
        array = weights.get(name)
        if array is None or array.dtype != dtype or array.shape != (outputs,):
            raise CgateError(f"{where}: {name} is missing or not {np.dtype(dtype)}[{outputs}]")
    kernel = weights.get(op.weights)
    if kernel is None or kernel.dtype != np.int8 or kernel.ndim != 4:
        raise CgateError(f"{where}: {op.weights} is missing or not int8 with four axes")
    shape = kernel.shape
    ends = (outputs, inputs) if isinstance(op, Conv2d) else (1, outputs)
    if (shape[0], shape[3]) != ends or any(not 1 <= n <= 255 for n in shape[1:3]):
        raise CgateError(f"{where}: {op.weights} has shape {list(shape)}")
    if isinstance(op, DepthwiseConv2d) and outputs % inputs != 0:
        raise CgateError(f"{where}: {op.weights} makes {outputs} channels from {inputs}")

"""`cgate bench kernels`: every kernel on the same layers, in one run under QEMU.

The outputs of all variants are compared with `ref`'s, so that a figure never belongs to a kernel
that computes something else. Weights, inputs and multipliers are random (seed 0); instruction
counts do not depend on them, except for `ref`'s requantisation.
"""

from __future__ import annotations

import csv
import io
import math
import subprocess
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgate.core.costs import SHAPE_COLUMNS, UNITS, Shape
from cgate.core.errors import EXIT_CHECK_FAILED, EXIT_TARGET_FAILED, CgateError
from cgate.core.files import write_text
from cgate.core.progress import Progress, Silent
from cgate.core.targets import Target, core_features, stand_in
from cgate.export.kernels import CONV_KERNELS, ConvLayer
from cgate.host_tools.build import ARM_FLAGS, COMMON_FLAGS, target_link_flags
from cgate.host_tools.calls import OK, Case, answers, encode, kernel_rows
from cgate.host_tools.cmsis_nn import CmsisNn
from cgate.host_tools.console import table
from cgate.host_tools.plugin import Counts, read_counts
from cgate.host_tools.runner import COUNTS, qemu_command
from cgate.host_tools.toolchain import ARM_GCC, find, firmware_folder

SEED = 0
_TIMEOUT_S = 600
_MAP_ROOM = 64 * 1024
_CONSTANTS_ROOM = 300 * 1024


@dataclass(frozen=True, order=True)
class Call:
    """An op and what it is called on."""

    op: str
    shape: Shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the direct algorithm; one per element for sums, 0 for copies."""
        if self.op == "conv2d_s8":
            return math.prod((*self.shape.output, *self.shape.taps))
        if self.op == "depthwise_conv2d_s8":
            return math.prod((*self.shape.output, *self.shape.kernel))
        if self.op in ("max_pool2d_s8", "avg_pool2d_s8"):
            return math.prod((*self.shape.output, *self.shape.kernel))
        return math.prod(self.shape.input) if self.op in ("mean_s8", "mean_max_s8") else 0


@dataclass(frozen=True)
class Cost:
    """What one call of one kernel took.

    Args:
        kernel: a row of cg_kernels.inc, `<op>__<variant>`.
        instructions: executed, exact.
        cycles: modelled, zero wait states; None for a core without a model.
        cycles_flash: modelled with the target's flash; None likewise.
        flash: bytes of constants that the kernel reads.
        ram: bytes of scratch memory.
    """

    kernel: str
    call: Call
    instructions: int
    cycles: int | None
    cycles_flash: int | None
    flash: int
    ram: int


def _conv(height: int, width: int, cin: int, cout: int, kernel: int = 3, stride: int = 1) -> Call:
    out = (-(-height // stride), -(-width // stride), cout)
    return Call("conv2d_s8", Shape((height, width, cin), out, (kernel, kernel), stride))


def _pool(op: str, height: int, width: int, channels: int, size: int, stride: int) -> Call:
    """Windows that lie on the map."""
    out = ((height - size) // stride + 1, (width - size) // stride + 1, channels)
    return Call(op, Shape((height, width, channels), out, (size, size), stride))


def _on_map(height: int, width: int, channels: int) -> tuple[Call, ...]:
    """The ops that have a map as input and no weights."""
    source, half = (height, width, channels), (-(-height // 2), -(-width // 2), 2 * channels)
    return (
        Call("mean_s8", Shape(source, (1, 1, channels))),
        Call("mean_max_s8", Shape(source, (1, 1, 2 * channels))),
        Call("shortcut_pad_s8", Shape(source, half, stride=2)),
        Call("max_pool2d_s8", Shape(source, (height // 2, width // 2, channels), (2, 2), 2)),
        Call("avg_pool2d_s8", Shape(source, (1, 1, channels), (height, width))),
        Call("residual_add_s8", Shape(source, source)),
        Call("add_s8", Shape(source, source)),
        Call("depthwise_conv2d_s8", Shape(source, source, (3, 3))),
    )


LAYERS = (
    _conv(32, 32, 16, 16),
    _conv(16, 16, 32, 32),
    _conv(8, 8, 64, 64),
    _conv(32, 32, 3, 16),
    _conv(32, 32, 16, 32, stride=2),
    _conv(16, 16, 32, 64, stride=2),
    _conv(32, 32, 16, 32, 1, 2),
    _conv(1, 1, 64, 10, 1),
    *_on_map(32, 32, 16),
)
"""The layers of ResNet-20 on 32x32 pixels, each kind once."""

_LINEAR = (
    *((4, 1), (8, 4), (16, 1), (16, 4), (16, 16), (32, 1), (32, 4), (32, 16), (64, 10)),
    *((64, 16), (64, 100), (128, 4), (128, 10)),
)
_MAPS = (
    *((2, 2, 64), (4, 4, 16), (4, 4, 32), (5, 9, 12), (7, 7, 64), (8, 8, 8), (8, 8, 16)),
    *((8, 8, 64), (14, 14, 32), (16, 16, 32), (28, 28, 16), (32, 32, 16)),
)
_POOLS = (
    *((6, 9, 12, 3, 1), (8, 8, 64, 2, 2), (9, 9, 32, 3, 2), (10, 10, 16, 5, 5), (16, 16, 32, 2, 2)),
    *((17, 17, 16, 3, 2), (32, 32, 16, 2, 2)),
)
"""Height, width, channels, size of the windows, stride."""
_CONVOLUTIONS = (
    *((2, 2, 32, 32), (2, 2, 64, 64), (4, 4, 16, 16), (4, 4, 32, 32), (4, 4, 64, 64)),
    *((5, 9, 12, 20), (7, 7, 64, 64), (8, 8, 1, 8), (8, 8, 1, 16), (8, 8, 8, 8), (8, 8, 16, 16)),
    *((8, 8, 32, 32), (8, 8, 32, 64), (8, 8, 64, 32), (8, 8, 64, 64), (10, 7, 6, 10)),
    *((14, 14, 32, 32), (16, 16, 8, 8), (16, 16, 16, 16), (16, 16, 16, 32), (16, 16, 32, 32)),
    *((16, 16, 64, 64), (28, 28, 1, 16), (28, 28, 16, 16), (32, 32, 3, 16), (32, 32, 8, 8)),
    *((32, 32, 16, 16), (5, 5, 32, 32), (6, 11, 8, 12), (10, 10, 16, 24), (11, 6, 16, 16)),
    *((8, 8, 3, 16), (8, 8, 40, 24), (9, 9, 20, 8), (12, 12, 24, 24), (12, 20, 12, 12)),
    *((16, 16, 3, 32), (16, 16, 24, 32), (6, 10, 48, 16), (12, 9, 40, 12)),
)
_STRIDED = (
    *((4, 4, 16, 32), (4, 4, 32, 64), (8, 8, 8, 16), (8, 8, 16, 32), (14, 14, 32, 64)),
    *((16, 16, 32, 64), (28, 28, 16, 32), (32, 32, 16, 32), (5, 9, 12, 20), (6, 11, 8, 12)),
    *((7, 7, 64, 64), (8, 8, 32, 64), (10, 14, 24, 16), (13, 13, 16, 16), (16, 16, 16, 16)),
    *((16, 16, 64, 64), (32, 32, 8, 16)),
)


def cost_calls() -> list[Call]:
    """What a cost table holds: enough shapes for a fit over the rest."""
    calls = [_conv(1, 1, cin, cout, 1) for cin, cout in _LINEAR]
    calls += [_conv(*shape) for shape in _CONVOLUTIONS]
    calls += [_conv(*shape, stride=2) for shape in _STRIDED]
    calls += [_conv(8, 8, 64, 128, 1), _conv(16, 16, 16, 32, 1), _conv(32, 32, 16, 32, 1, 2)]
    calls += [_conv(9, 9, 8, 8, 5)]
    calls += [_pool(op, *shape) for op in ("max_pool2d_s8", "avg_pool2d_s8") for shape in _POOLS]
    calls += [call for source in _MAPS for call in _on_map(*source)]
    return sorted(calls)


def _conv_case(call: Call, rng: np.random.Generator) -> tuple[Case, Mapping[str, int]]:
    """A call with a fused ReLU, and the bytes of constants by variant."""
    shape = call.shape
    cout = shape.output[2]
    taps = math.prod(shape.taps)
    pad = (shape.kernel[0] // 2, shape.kernel[1] // 2)
    layer = ConvLayer(
        *(shape.input, shape.output, shape.stride, *pad, -128, -128),
        weights=rng.integers(-127, 128, (cout, *shape.taps)).astype(np.int8),
        bias=rng.integers(-5000, 5001, cout).astype(np.int32),
        multiplier=rng.integers(1 << 30, 1 << 31, cout).astype(np.int32),
        # So that the sums, of standard deviation 73 * 147 * sqrt(taps), spread over int8.
        shift=np.full(cout, -7 - round(np.log2(taps) / 2), np.int8),
    )
    parameters = (
        *(*shape.input, *shape.output, *shape.kernel, shape.stride),
        *(*pad, layer.in_zero_point, layer.out_zero_point, -128, 127),
    )
    packed = {
        kernel.name.split("__")[1]: kernel.pack(layer)
        for kernel in CONV_KERNELS.values()
        if kernel.refuses(layer) is None
    }
    sizes = {variant: words.nbytes for variant, words in packed.items()}
    x = rng.integers(-128, 128, shape.input).astype(np.int8)
    arrays = (x, np.zeros(shape.output, np.int8), layer.weights, layer.bias)
    case = Case("conv2d_s8", parameters, (*arrays, layer.multiplier, layer.shift), None, packed)
    return case, {"ref": layer.plain_size, "cmsis_nn": layer.plain_size, **sizes}


def _depthwise_case(call: Call, rng: np.random.Generator) -> tuple[Case, Mapping[str, int]]:
    """The same of a depthwise convolution, of which no kernel packs constants."""
    shape = call.shape
    channels = shape.output[2]
    pad = (shape.kernel[0] // 2, shape.kernel[1] // 2)
    parameters = (
        *(*shape.input, *shape.output, *shape.kernel, shape.stride),
        *(*pad, -128, -128, -128, 127),
    )
    constants = (
        rng.integers(-127, 128, (*shape.kernel, channels)).astype(np.int8),
        rng.integers(-5000, 5001, channels).astype(np.int32),
        rng.integers(1 << 30, 1 << 31, channels).astype(np.int32),
        np.full(channels, -9, np.int8),
    )
    x = rng.integers(-128, 128, shape.input).astype(np.int8)
    case = Case(call.op, parameters, (x, np.zeros(shape.output, np.int8), *constants), None)
    size = sum(array.nbytes for array in constants)
    return case, {variant: size for op, variant, _ in kernel_rows() if op == call.op}


def make_case(call: Call) -> tuple[Case, Mapping[str, int]]:
    """A random call, and the bytes of constants of the variants that can do it."""
    rng = np.random.default_rng(SEED)
    if call.op == "conv2d_s8":
        return _conv_case(call, rng)
    if call.op == "depthwise_conv2d_s8":
        return _depthwise_case(call, rng)
    source, result = call.shape.input, call.shape.output
    multiplier = int(rng.integers(1 << 30, 1 << 31))
    shrink = -round(np.log2(source[0] * source[1]))
    windows = (*source, *result[:2], *call.shape.kernel, call.shape.stride, 0, 0, -128, 127)
    parameters: tuple[int, ...] = {
        "max_pool2d_s8": windows,
        "avg_pool2d_s8": windows,
        "mean_s8": (*source, -128, -128, multiplier, shrink),
        "mean_max_s8": (*source, -128, multiplier, shrink),
        "shortcut_pad_s8": (
            *(*source, result[2], (result[2] - source[2]) // 2),
            *(call.shape.stride, -128, -128, multiplier, 0),
        ),
        "residual_add_s8": (math.prod(source),),
        # The input has the larger scale, so it is halved exactly.
        "add_s8": (
            *(math.prod(source), -128, 3, -128, -128, 127),
            *(1 << 30, multiplier, multiplier, 0, -1, -18),
        ),
    }[call.op]
    x = rng.integers(-128, 128, source).astype(np.int8)
    case = Case(call.op, parameters, (x, rng.integers(-128, 128, result).astype(np.int8)), None)
    return case, {variant: 0 for op, variant, _ in kernel_rows() if op == call.op}


def _compile(machine: Target, cmsis_nn: CmsisNn | None, folder: Path) -> Path:
    firmware = firmware_folder()
    program = folder / "kernels.elf"
    flags = [f"-DBUFFER={_MAP_ROOM}", f"-DCONSTANTS={_CONSTANTS_ROOM}"]
    if machine.flash_access is not None:
        flags.append('-DCONSTANTS_IN=__attribute__((section(".constants")))')
    command: list[str | Path] = [find(ARM_GCC), *machine.cflags, *COMMON_FLAGS, *ARM_FLAGS, *flags]
    if cmsis_nn is not None:
        # Its own code is not held to the library's warnings.
        command += ["-w", *cmsis_nn.flags, *cmsis_nn.sources]
    command += [f"-I{firmware / name}" for name in ("include", "port", "src/ref")]
    command.append(firmware / "apps" / "kernels" / "main.c")
    command += sorted((firmware / "src").rglob("*.c"))
    command += sorted((firmware / "port" / "cortex_m").glob("*.c"))
    command += [*target_link_flags(machine), "-o", program]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CgateError(f"the kernels do not compile:\n{result.stderr.strip()[:2000]}")
    return program


def _run(program: Path, machine: Target, requests: bytes, folder: Path) -> tuple[bytes, Counts]:
    """What the program answers, and what the plugin counted: one inference per call."""
    (folder / "requests").write_bytes(requests)
    try:
        result = subprocess.run(
            qemu_command(machine, program),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CgateError(f"no end after {_TIMEOUT_S} s", "", EXIT_TARGET_FAILED) from error
    if result.returncode != 0:
        raise CgateError(
            f"the program failed:\n{result.stderr.strip()[-1000:]}", "", EXIT_TARGET_FAILED
        )
    return (folder / "replies").read_bytes(), read_counts(folder / COUNTS, 0)


def _jobs(features: Container[str], calls: Sequence[Call]) -> Iterator[tuple[Call, str, Case, int]]:
    """Call, variant, case and bytes of constants of all that need no more than `features`."""
    for call in calls:
        case, sizes = make_case(call)
        for op, variant, needs in kernel_rows():
            if op == call.op and needs in features and variant in sizes:
                yield call, variant, case, sizes[variant]


def measure(
    target: Target,
    calls: Sequence[Call],
    *,
    cmsis_nn: CmsisNn | None = None,
    progress: Progress | None = None,
) -> list[Cost]:
    """What every kernel that `target` can run costs on every call.

    Args:
        cmsis_nn: measured in the same run, if given.

    Raises:
        CgateError: a tool is missing (3), the program fails (4), or a kernel's output differs from
            ref's (1).
    """
    progress = progress or Silent()
    progress.start(f"measure kernels on {target.name}", 1)
    machine = stand_in(target)
    features = [*core_features(target.core), *(["cmsis_nn"] if cmsis_nn else [])]
    jobs = list(_jobs(features, calls))
    with tempfile.TemporaryDirectory(prefix="cgate-") as temporary:
        folder = Path(temporary)
        requests = encode([(call.op, variant, case) for call, variant, case, _ in jobs])
        output, counts = _run(_compile(machine, cmsis_nn, folder), machine, requests, folder)
    replies = list(answers(output))
    expected = {
        call: reply[2]
        for (call, variant, _, _), reply in zip(jobs, replies, strict=True)
        if variant == "ref"
    }
    costs = []
    for i, ((call, variant, _, constants), (status, scratch, data)) in enumerate(
        zip(jobs, replies, strict=True)
    ):
        if status != OK or data != expected[call]:
            raise CgateError(
                f"{call.op}__{variant} on {call}: "
                + (f"status {status:#x}" if status != OK else "other output than ref"),
                "",
                EXIT_CHECK_FAILED,
            )
        cycles = int(counts.whole.cycles[i]) if target.has_cycle_model else None
        slow = None if cycles is None else cycles + int(counts.whole.stalls[i])
        name = f"{call.op}__{variant}"
        costs.append(Cost(name, call, int(counts.total[i]), cycles, slow, constants, scratch))
    progress.advance()
    return costs


def _csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(cost: Cost) -> dict[str, object]:
    shape = cost.call.shape
    numbers = (*shape.input, *shape.output, *shape.kernel, shape.stride)
    shaped = dict(zip(SHAPE_COLUMNS, numbers, strict=True))
    return {**vars(cost), **shaped, "macs": cost.call.macs}


def write_costs(path: Path, costs: Sequence[Cost]) -> None:
    """Write a target's cost table (SPEC.md 12), in the order of kernel and shape."""
    rows = [_flat(cost) for cost in sorted(costs, key=lambda cost: (cost.kernel, cost.call))]
    columns = ("kernel", *SHAPE_COLUMNS, *UNITS)
    write_text(path, _csv_text(columns, rows))


def write_results(path: Path, costs: Mapping[str, Sequence[Cost]], commit: str) -> None:
    """Write results/kernels.csv: a row per target, layer and kernel.

    Args:
        costs: by target.
        commit: what was measured.
    """
    rows = [
        {"target": target, **_flat(cost), "n": 1, "seed": SEED, "commit": commit}
        for target, of_target in costs.items()
        for cost in of_target
    ]
    measured = (*UNITS, "flash", "ram", "macs")
    columns = ("target", "kernel", *SHAPE_COLUMNS, *measured, "n", "seed", "commit")
    write_text(path, _csv_text(columns, rows))


def label(call: Call) -> str:
    """The call for people, such as "conv2d 32x32x16 -> 32x32x16 3x3"."""
    shape = call.shape
    maps = " -> ".join("x".join(str(n) for n in side) for side in (shape.input, shape.output))
    kernel = f" {shape.kernel[0]}x{shape.kernel[1]}" if call.op == "conv2d_s8" else ""
    stride = f" stride {shape.stride}" if shape.stride > 1 else ""
    return f"{call.op.removesuffix('_s8')} {maps}{kernel}{stride}"


def costs_lines(costs: Sequence[Cost]) -> list[str]:
    """A table for people."""

    def number(value: int | None) -> str:
        return "" if value is None else f"{value:,}"

    head = ["layer", "kernel", "instructions", "cycles", "with flash", "MAC/cycle", "flash", "RAM"]
    rows = [
        [
            label(cost.call),
            cost.kernel.split("__")[1],
            *(number(n) for n in (cost.instructions, cost.cycles, cost.cycles_flash)),
            f"{cost.call.macs / cost.cycles:.2f}" if cost.cycles and cost.call.macs else "",
            *(f"{n:,} B" for n in (cost.flash, cost.ram)),
        ]
        for cost in costs
    ]
    return table(head, rows, "  rrrrrr")


def cost_value(cost: Cost) -> dict[str, object]:
    """As plain JSON values."""
    value = _flat(cost)
    del value["call"]
    return value

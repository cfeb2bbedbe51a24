"""What a kernel costs on a target: the committed tables in costs/ (SPEC.md 12), and their fit.

A shape that was measured costs what was measured. Any other is estimated: cost is linear in the
counts of the kernel's loops, known from its shape (TERMS), and the factors come from the table by
least squares of the relative error. In exact fractions, so that every machine finds the same
integers and makes the same choices. tests/core/test_costs.py holds the error, every row left out
once, below MAX_ERROR.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

from cgate.core.errors import CgateError
from cgate.core.targets import Target, all_targets

FOLDER = Path(__file__).parent / "costs"
SHAPE_COLUMNS = (
    *("in_height", "in_width", "in_channels", "out_height", "out_width", "out_channels"),
    *("kernel_height", "kernel_width", "stride"),
)
UNITS = ("instructions", "cycles", "cycles_flash")
"""Columns of a table that can decide; the last one that is filled in all rows does."""
MAX_ERROR = {"instructions": 0.05, "cycles": 0.06, "cycles_flash": 0.11}
"""Relative error of an estimate, at most, for a shape within the range of the table."""


@dataclass(frozen=True, order=True)
class Shape:
    """What a kernel's cost depends on: maps as height, width, channels; padding is kernel // 2."""

    input: tuple[int, int, int]
    output: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1

    @property
    def pixels(self) -> int:
        """Of the output."""
        return self.output[0] * self.output[1]

    @property
    def taps(self) -> tuple[int, int, int]:
        """Kernel rows, columns and channels."""
        return (*self.kernel, self.input[2])


def _up(value: int, step: int) -> int:
    return -(-value // step)


def _inside(size: int, outputs: int, kernel: int, stride: int) -> int:
    """Taps of one axis that fall on the input, summed over the outputs."""
    pad = kernel // 2
    starts = (i * stride - pad for i in range(outputs))
    return sum(max(0, min(size, start + kernel) - max(0, start)) for start in starts)


def _plain(shape: Shape) -> list[int]:
    """Loops over pixels, four output channels, kernel rows, and taps that fall on the input."""
    channels, outputs = shape.input[2], shape.output[2]
    rows = _inside(shape.input[0], shape.output[0], shape.kernel[0], shape.stride)
    columns = _inside(shape.input[1], shape.output[1], shape.kernel[1], shape.stride)
    lanes = _up(outputs, 4)
    return [
        rows * columns * channels * lanes,
        shape.pixels * outputs,
        rows * shape.output[1] * lanes,
        1,
        shape.pixels * lanes,
        shape.pixels,
        shape.pixels * (-outputs % 4),
    ]


def _whole(size: int, outputs: int, kernel: int, stride: int) -> int:
    """Outputs of one axis whose taps all fall on the input."""
    starts = (i * stride - kernel // 2 for i in range(outputs))
    return sum(0 <= start <= size - kernel for start in starts)


def _columns(shape: Shape) -> list[int]:
    """Four pixels at a time: columns gathered, multiplied in blocks of 16.

    What is left of a row of the kernel behind the last word goes by bytes; a window that is not
    wholly inside is copied first.
    """
    rows, width, channels = shape.taps
    outputs, pixels, quads = shape.output[2], shape.pixels, _up(shape.pixels, 4)
    run = width * channels
    whole = _whole(shape.input[0], shape.output[0], rows, shape.stride) * _whole(
        shape.input[1], shape.output[1], width, shape.stride
    )
    return [
        quads * _up(rows * run, 4) * _up(outputs, 2),
        quads * outputs,
        pixels * rows * (run // 4),
        1,
        quads * _up(outputs, 16),
        pixels * rows,
        pixels * rows * (run % 4),
        pixels % 4 * outputs,
        pixels,
        (pixels - whole) * rows * run,
        pixels - whole,
        pixels * rows * (run // 4 % 4),
        quads * _up(outputs, 2) * (_up(rows * run, 4) * 2 % 4),  # of four pairs, for Helium
    ]


def _tiles(shape: Shape) -> list[int]:
    """Winograd, tiles of 4x4, two at a time; those at the edge are cut to what is inside.

    Pixels that are no whole words are filled up.
    """
    height, width, outputs = shape.output
    channels = 4 * _up(shape.input[2], 4)
    strips = _up(height, 4)
    pairs, tiles = strips * _up(width, 8), strips * _up(width, 4)
    whole = (height // 4) * (width // 4)
    loops = channels not in (4, 16, 32, 64)  # in place of straight code
    return [
        pairs * channels * outputs,
        tiles * outputs,
        pairs * channels,
        1,
        pairs,
        strips * width * channels,
        (tiles - whole) * outputs,
        (shape.pixels - 16 * whole) * outputs,
        pairs * outputs,
        pairs * outputs * loops,
        pairs * outputs * (channels == 4),  # the shortest straight code
        pairs * outputs * (channels // 2 % 4),  # Helium takes four pairs of channels at a time
        min(strips, 2) * width * channels,
        6 * strips * width * (channels - shape.input[2]),
        pairs * channels * loops,
        pairs * outputs * loops * _up(channels // 4 - 1, 8),  # turns
    ]


def _map(shape: Shape) -> list[int]:
    """One pass over a map."""
    height, width, channels = shape.input
    return [
        height * width * channels, 1, channels, shape.pixels * shape.output[2], height * width
    ]  # fmt: skip


def _windows(shape: Shape) -> list[int]:
    """Pooling: values in windows, outputs, rows of windows; by channel, then by window."""
    rows, columns, channels = shape.taps
    return [
        shape.pixels * rows * columns * channels,
        shape.pixels * channels,
        shape.pixels * rows * channels,
        1,
        shape.pixels,
        shape.pixels * rows * (columns % 2) * channels,
    ]


def _fours(shape: Shape) -> list[int]:
    """Maxima of four values of a window at a time."""
    taps = shape.kernel[0] * shape.kernel[1]
    windows, fours = shape.pixels, _up(taps, 4)
    channels = shape.input[2]
    return [
        windows * fours * channels,
        windows,
        windows * fours,
        1,
        windows * taps,
        windows * channels,
    ]


def _shortcut(shape: Shape) -> list[int]:
    """Copied and new channels of each output pixel, by words; half of the new ones on each side."""
    channels, outputs, pixels = shape.input[2], shape.output[2], shape.pixels
    return [
        pixels * channels,
        pixels * (outputs - channels),
        pixels,
        pixels * ((outputs - channels) // 2 % 4),
        1,
    ]


def _depthwise(shape: Shape) -> list[int]:
    """Taps that fall on the input, outputs, runs of up to 8 alike windows; by channel."""
    channels = shape.output[2]
    rows = _inside(shape.input[0], shape.output[0], shape.kernel[0], shape.stride)
    columns = _inside(shape.input[1], shape.output[1], shape.kernel[1], shape.stride)
    inside = _whole(shape.input[1], shape.output[1], shape.kernel[1], shape.stride)
    runs = shape.output[1] - inside + _up(inside, 8)
    return [
        rows * columns * channels,
        shape.pixels * channels,
        shape.output[0] * runs * channels,
        1,
        channels,
        rows * shape.output[1] * channels,
    ]


def _tiles_int8(shape: Shape) -> list[int]:
    """The same with passes over many tiles, each of which transforms the weights first."""
    channels, outputs = 4 * _up(shape.input[2], 4), shape.output[2]
    spans = _up(shape.output[0], 4) * _up(shape.output[1], 8)
    passes = _up(spans, max(1, 128 // channels))
    return [passes * channels * outputs, *_tiles(shape)]


def _phases(shape: Shape) -> list[int]:
    """Stride 2 by phases, spans of 2x4 outputs; a window at the border is copied first."""
    height, width, outputs = shape.output
    channels = shape.input[2]
    spans = _up(height, 2) * _up(width, 4)
    down = sum(0 <= 4 * i - 1 <= shape.input[0] - 5 for i in range(_up(height, 2)))
    across = sum(0 <= 8 * i - 1 <= shape.input[1] - 9 for i in range(_up(width, 4)))
    return [
        spans * channels * outputs,
        spans * outputs,
        spans * channels,
        1,
        spans,
        (spans - down * across) * channels,
        (spans - (height // 2) * (width // 4)) * outputs,
        spans * outputs * (channels not in (8, 16, 32)),  # loops in place of straight code
        spans * outputs * (channels // 2 % 4),  # Helium takes four pairs of channels at a time
    ]


def _vectors(shape: Shape) -> list[int]:
    """Helium: columns of int8 gathered by rows of the kernel, blocks of four channels, two pixels.

    A row of a window that is not wholly inside is copied between two fills.
    """
    rows, width, channels = shape.taps
    run, pixels, outputs = width * channels, shape.pixels, shape.output[2]
    blocks = _up(pixels, 2) * _up(outputs, 4)
    whole = _whole(shape.input[0], shape.output[0], rows, shape.stride) * _whole(
        shape.input[1], shape.output[1], width, shape.stride
    )
    return [
        blocks * _up(rows * run, 16),
        blocks,
        pixels * rows * _up(run, 16),
        1,
        _up(pixels, 8) * _up(outputs, 4),
        pixels * rows,
        pixels,
        outputs,
        (pixels - whole) * rows,
        pixels - whole,
        pixels % 2 * _up(outputs, 4),
        _up(pixels, 8),
    ]


def _depthwise_vectors(shape: Shape) -> list[int]:
    """Helium, by four channels: whole windows, runs of alike windows, taps of those cut off."""
    groups = _up(shape.output[2], 4)
    kernel = shape.kernel[0] * shape.kernel[1]
    rows = _inside(shape.input[0], shape.output[0], shape.kernel[0], shape.stride)
    columns = _inside(shape.input[1], shape.output[1], shape.kernel[1], shape.stride)
    across = _whole(shape.input[1], shape.output[1], shape.kernel[1], shape.stride)
    whole = across * _whole(shape.input[0], shape.output[0], shape.kernel[0], shape.stride)
    runs = shape.output[0] * (shape.output[1] - across + (across > 0))
    return [
        whole * kernel * groups,
        (rows * columns - whole * kernel) * groups,
        runs * groups,
        1,
        runs,
        shape.output[2],
        shape.pixels * groups,
    ]


TERMS: Mapping[str, Callable[[Shape], list[int]]] = {
    "conv2d_s8__ref": _plain,
    "conv2d_s8__dsp_direct": _columns,
    "conv2d_s8__dsp_winograd": _tiles,
    "conv2d_s8__dsp_winograd_int8": _tiles_int8,
    "conv2d_s8__dsp_phases": _phases,
    "conv2d_s8__mve": _vectors,
    "shortcut_pad_s8__dsp": _shortcut,
    "max_pool2d_s8__ref": _windows,
    "max_pool2d_s8__dsp": _fours,
    "avg_pool2d_s8__ref": _windows,
    "avg_pool2d_s8__dsp": _windows,
    "depthwise_conv2d_s8__ref": _depthwise,
    "depthwise_conv2d_s8__dsp": _depthwise,
    "depthwise_conv2d_s8__mve": _depthwise_vectors,
}
"""Loop counts by kernel, the most important first; a kernel that is not here has those of a map."""


def _terms(kernel: str) -> Callable[[Shape], list[int]]:
    return TERMS.get(kernel, _plain if kernel.startswith("conv2d_s8__") else _map)


def _least_squares(rows: Sequence[Sequence[int]], costs: Sequence[int]) -> list[Fraction]:
    """Factors x with the least sum of (row . x / cost - 1)^2; 0 for what other terms explain."""
    size = len(rows[0])
    # Squared weights as integers, for speed; the sums and the elimination stay exact, so that a
    # pivot is 0 or it is not.
    weights = [((1 << 40) // cost) ** 2 for cost in costs]
    table = [
        [
            Fraction(sum(w * row[i] * row[j] for w, row in zip(weights, rows, strict=True)))
            for j in range(size)
        ]
        + [Fraction(sum(w * r[i] * c for w, r, c in zip(weights, rows, costs, strict=True)))]
        for i in range(size)
    ]
    for i in range(size):
        pivot = table[i][i]
        if pivot == 0:
            continue
        table[i] = [value / pivot for value in table[i]]
        for j in range(size):
            if j != i and table[j][i] != 0:
                factor = table[j][i]
                table[j] = [a - factor * b for a, b in zip(table[j], table[i], strict=True)]
    return [table[i][size] if table[i][i] != 0 else Fraction() for i in range(size)]


@dataclass(frozen=True)
class Cost:
    """Of one run of a kernel.

    Args:
        value: in the table's unit.
        how: "measured", "fitted" between measured shapes, or "extrapolated" beyond them.
    """

    value: int
    how: str


@dataclass(frozen=True)
class _Fit:
    """Factors of a kernel's terms, and the range of each term among the measured shapes."""

    factors: tuple[Fraction, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]


def _fit(kernel: str, rows: Mapping[Shape, int]) -> _Fit:
    terms = [_terms(kernel)(shape) for shape in rows]
    # Two measurements for each factor, or they would follow every accident.
    size = max(1, min(len(terms[0]), len(terms) // 2))
    factors = _least_squares([row[:size] for row in terms], list(rows.values()))
    ends = list(zip(*terms, strict=True))
    return _Fit(tuple(factors), tuple(map(min, ends)), tuple(map(max, ends)))


@dataclass(frozen=True)
class CostTable:
    """The costs that were measured for a target.

    Args:
        target: whose; another one with the same core where the target has no table of its own.
        unit: what the costs count, one of UNITS.
        rows: cost by shape, by kernel.
    """

    target: str
    unit: str
    rows: Mapping[str, Mapping[Shape, int]]

    def cost(self, kernel: str, shape: Shape) -> Cost | None:
        """Of one run of `kernel`, or None if it was never measured here."""
        rows = self.rows.get(kernel)
        if rows is None:
            return None
        if shape in rows:
            return Cost(rows[shape], "measured")
        fit = _fit_of(self.target, kernel)
        terms = _terms(kernel)(shape)
        value = sum(
            (factor * term for factor, term in zip(fit.factors, terms, strict=False)), Fraction()
        )
        within = all(a <= term <= b for a, term, b in zip(fit.low, terms, fit.high, strict=True))
        return Cost(max(1, round(value)), "fitted" if within else "extrapolated")


@cache
def _fit_of(target: str, kernel: str) -> _Fit:
    return _fit(kernel, _read(target).rows[kernel])


def read_table(path: Path) -> CostTable:
    """Read a table; its name is the target's.

    Raises:
        CgateError: it cannot be read, or says something else than SPEC.md 12.
    """
    rows: dict[str, dict[Shape, dict[str, str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for line in csv.DictReader(stream):
                numbers = [int(line[column]) for column in SHAPE_COLUMNS]
                shape = Shape(
                    (numbers[0], numbers[1], numbers[2]),
                    (numbers[3], numbers[4], numbers[5]),
                    (numbers[6], numbers[7]),
                    numbers[8],
                )
                rows.setdefault(line["kernel"], {})[shape] = {key: line[key] for key in UNITS}
        lines = [cells for shapes in rows.values() for cells in shapes.values()]
        if not lines:
            raise ValueError("no rows")
        unit = [unit for unit in UNITS if all(cells[unit] for cells in lines)][-1]
        costs = {
            kernel: {shape: int(cells[unit]) for shape, cells in shapes.items()}
            for kernel, shapes in rows.items()
        }
        if any(cost < 1 for shapes in costs.values() for cost in shapes.values()):
            raise ValueError("a cost below 1")
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise CgateError(
            f"cost table {path.name}: {error}", "cgate bench kernels writes it again"
        ) from error
    return CostTable(path.stem, unit, costs)


@cache
def _read(name: str) -> CostTable:
    return read_table(FOLDER / f"{name}.csv")


def cost_table(target: Target) -> CostTable:
    """The table of a target, or else of another one with the same core, best with a like flash.

    The flash of another board with wait states is nearer than none.

    Raises:
        CgateError: there is none, or it is broken.
    """
    same = [other for other in all_targets() if other.core == target.core]
    waits = target.flash_access is not None
    same.sort(
        key=lambda other: (
            other.flash_access != target.flash_access,
            (other.code_ram is None) != (target.code_ram is None),
            (other.flash_access is not None) != waits,
        )
    )
    for name in (target.name, *(other.name for other in same)):
        if (FOLDER / f"{name}.csv").is_file():
            return _read(name)
    raise CgateError(
        f"there are no measured costs for {target.name}, nor for another {target.core}",
        f"cgate bench kernels --target {target.name}",
    )

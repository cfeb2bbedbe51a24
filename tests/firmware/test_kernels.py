"""Every kernel against an oracle written here with Python and numpy, on the host and on targets."""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from c_programs import FIRMWARE, PORT, compile_host, compile_target, run_host, run_target
from tiny import needs_host, needs_qemu

ROWS = re.findall(
    r"^CG_KERNEL\((\w+), (\w+), (\w+)\)",
    (FIRMWARE / "include" / "cg_kernels.inc").read_text(),
    re.MULTILINE,
)
SOURCES = [Path(__file__).parent / "harness.c", *sorted((FIRMWARE / "src").rglob("*.c"))]
OK, ERR_PARAM = 0, 3
INT32 = (-(1 << 31), (1 << 31) - 1)
Int = NDArray[np.int64]


# The oracle.


def requant(acc: int, multiplier: int, shift: int) -> int:
    """SPEC 5.1, word by word, in Python's unbounded integers."""
    left, right = max(shift, 0), max(-shift, 0)
    a = (acc << left) + (1 << 31)
    a = a % (1 << 32) - (1 << 31)  # held in int32
    product = a * multiplier
    product += (1 << 30) if product >= 0 else 1 - (1 << 30)
    p = abs(product) >> 31
    p = p if product >= 0 else -p  # toward zero
    magnitude, rest = divmod(abs(p), 1 << right)
    magnitude += 2 * rest >= 1 << right and rest > 0  # ties away from zero
    return magnitude if p >= 0 else -magnitude


def clamp(value: int, low: int = -128, high: int = 127) -> int:
    return max(low, min(high, value))


@dataclass(frozen=True)
class Case:
    """One call: int32 parameters, and the arrays in the order that the harness reads them."""

    op: str
    parameters: tuple[int, ...]
    arrays: tuple[NDArray[Any], ...]
    expected: NDArray[np.int8] | None  # None: the kernel must refuse

    def encode(self, row: int) -> bytes:
        parts = [
            struct.pack(f"<II{len(self.parameters)}i", row, len(self.parameters), *self.parameters)
        ]
        for array in self.arrays:
            parts += [struct.pack("<I", array.nbytes), array.tobytes()]
        return b"".join(parts)


class Source:
    """Random parameters and data; `extreme` prefers the ends of every range."""

    def __init__(self, seed: int, extreme: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.extreme = extreme

    def whole(self, low: int, high: int) -> int:
        if self.extreme and self.rng.random() < 0.5:
            return low if self.rng.random() < 0.5 else high
        return int(self.rng.integers(low, high + 1))

    def int8(self, *shape: int, low: int = -128) -> NDArray[np.int8]:
        if self.extreme:
            return self.rng.choice(np.array([low, 127], np.int8), shape)
        return self.rng.integers(low, 128, shape).astype(np.int8)

    def multiplier(self) -> int:
        return self.whole(1 << 30, (1 << 31) - 1)


def conv2d_s8(source: Source, largest: int = 7) -> Case:
    h, w, cin, cout = (source.whole(1, largest) for _ in range(4))
    kh, kw, stride = source.whole(1, 5), source.whole(1, 5), source.whole(1, 3)
    top, left = source.whole(0, kh - 1), source.whole(0, kw - 1)
    oh = (h + top + source.whole(0, kh - 1) - 1) // stride + 1
    ow = (w + left + source.whole(0, kw - 1) - 1) // stride + 1
    zp_in, zp_out = source.whole(-128, 127), source.whole(-128, 127)
    low = source.whole(-128, 127)
    high = source.whole(low, 127)
    x = source.int8(h, w, cin)
    weights = source.int8(cout, kh, kw, cin, low=-127)
    bias = source.rng.integers(-100000, 100000, cout).astype(np.int32)
    multiplier = np.array([source.multiplier() for _ in range(cout)], np.int32)
    shift = np.array([source.whole(-12, 3) for _ in range(cout)], np.int8)

    y = np.zeros((oh, ow, cout), np.int8)
    padded = np.full((oh * stride + kh + top, ow * stride + kw + left, cin), zp_in, np.int64)
    padded[top : top + h, left : left + w] = x
    for i, j in np.ndindex(oh, ow):
        window = padded[i * stride : i * stride + kh, j * stride : j * stride + kw] - zp_in
        for o in range(cout):
            acc = int(bias[o]) + int((window * weights[o].astype(np.int64)).sum())
            scaled = requant(acc, int(multiplier[o]), int(shift[o]))
            y[i, j, o] = clamp(zp_out + scaled, low, high)
    parameters = (h, w, cin, oh, ow, cout, kh, kw, stride, top, left, zp_in, zp_out, low, high)
    before = source.int8(oh, ow, cout)
    return Case("conv2d_s8", parameters, (x, before, weights, bias, multiplier, shift), y)


def mean_s8(source: Source, largest: int = 9) -> Case:
    h, w, c = (source.whole(1, largest) for _ in range(3))
    zp_in, zp_out = source.whole(-128, 127), source.whole(-128, 127)
    multiplier, shift = source.whole(1 << 20, (1 << 31) - 1), source.whole(-31, 2)
    x = source.int8(h, w, c)
    sums = (x.astype(np.int64) - zp_in).sum(axis=(0, 1))
    y = [clamp(zp_out + requant(int(acc), multiplier, shift)) for acc in sums]
    parameters = (h, w, c, zp_in, zp_out, multiplier, shift)
    return Case("mean_s8", parameters, (x, source.int8(c)), np.array(y, np.int8))


def mean_max_s8(source: Source, largest: int = 9) -> Case:
    h, w, c = (source.whole(1, largest) for _ in range(3))
    zp = source.whole(-128, 127)
    multiplier, shift = source.whole(1 << 20, (1 << 31) - 1), source.whole(-31, 2)
    x = source.int8(h, w, c)
    sums = (x.astype(np.int64) - zp).sum(axis=(0, 1))
    means = [clamp(zp + requant(int(acc), multiplier, shift)) for acc in sums]
    peaks = [max(int(x[i, j, k]) for i in range(h) for j in range(w)) for k in range(c)]
    parameters = (h, w, c, zp, multiplier, shift)
    return Case(
        "mean_max_s8", parameters, (x, source.int8(2 * c)), np.array(means + peaks, np.int8)
    )


def shortcut_pad_s8(source: Source, largest: int = 7) -> Case:
    h, w, c = (source.whole(1, largest) for _ in range(3))
    before, after, stride = source.whole(0, 5), source.whole(0, 5), source.whole(1, 3)
    zp_in, zp_out = source.whole(-128, 127), source.whole(-128, 127)
    multiplier, shift = source.multiplier(), source.whole(-8, 2)
    x = source.int8(h, w, c)
    picked = x[::stride, ::stride]
    y = np.full((*picked.shape[:2], before + c + after), zp_out, np.int8)
    for index, value in np.ndenumerate(picked):
        scaled = requant(int(value) - zp_in, multiplier, shift)
        y[index[0], index[1], before + index[2]] = clamp(zp_out + scaled)
    parameters = (h, w, c, y.shape[2], before, stride, zp_in, zp_out, multiplier, shift)
    return Case("shortcut_pad_s8", parameters, (x, source.int8(*y.shape)), y)


def residual_add_s8(source: Source, largest: int = 300) -> Case:
    size = source.whole(1, largest)
    f, stream = source.int8(size), source.int8(size)
    y = np.clip(f.astype(np.int64) + stream, -128, 127).astype(np.int8)
    return Case("residual_add_s8", (size,), (f, stream), y)


GENERATORS: dict[str, Callable[[Source], Case]] = {
    "conv2d_s8": conv2d_s8,
    "mean_s8": mean_s8,
    "mean_max_s8": mean_max_s8,
    "shortcut_pad_s8": shortcut_pad_s8,
    "residual_add_s8": residual_add_s8,
}


# The harness.


@cache
def host_harness() -> Path:
    return compile_host("harness", [*SOURCES, PORT / "host" / "cg_host.c"])


def answers(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(status, scratch size, output) of every case."""
    while data:
        status, scratch, size = struct.unpack_from("<III", data)
        yield status, scratch, data[12 : 12 + size]
        data = data[12 + size :]


def check(cases: Sequence[tuple[str, str, Case]], output: bytes) -> None:
    replies = list(answers(output))
    assert len(replies) == len(cases)
    for (op, variant, case), (status, _, data) in zip(cases, replies, strict=True):
        where = f"cg_{op}__{variant} {case.parameters}"
        if case.expected is None:
            assert status == ERR_PARAM, where
            assert data == case.arrays[1].tobytes(), f"{where} wrote although it refused"
        else:
            assert status == OK, f"{where}: status {status:#x}"
            np.testing.assert_array_equal(
                np.frombuffer(data, np.int8).reshape(case.expected.shape), case.expected, where
            )


def encode(cases: Sequence[tuple[str, str, Case]]) -> bytes:
    places = {(op, variant): i for i, (op, variant, _) in enumerate(ROWS)}
    return b"".join(case.encode(places[op, variant]) for op, variant, case in cases)


def test_every_row_has_an_oracle() -> None:
    assert ROWS
    assert {op for op, _, _ in ROWS} == set(GENERATORS)


@pytest.mark.parametrize(("op", "variant"), [row[:2] for row in ROWS])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), extreme=st.booleans())
def test_kernel_equals_oracle(op: str, variant: str, seed: int, extreme: bool) -> None:
    needs_host()
    cases = [(op, variant, GENERATORS[op](Source(seed + i, extreme))) for i in range(3)]
    check(cases, run_host(host_harness(), encode(cases)))


def refusals() -> Iterator[tuple[str, Case]]:
    """Calls that a kernel must refuse: one field of a good call made illegal."""
    fields = {
        "conv2d_s8": {8: (0,), 11: (-129, 128), 12: (-129, 128)},
        "mean_s8": {0: (0,), 1: (0,), 3: (-129, 128), 4: (-129, 128), 6: (-32, 31)},
        "mean_max_s8": {0: (0,), 1: (0,), 3: (-129, 128), 5: (-32, 31)},
        "shortcut_pad_s8": {3: (1,), 5: (0,), 6: (128,), 7: (-129,), 9: (-32, 31)},
    }
    for op, changes in fields.items():
        for place, values in changes.items():
            for value in values:
                good = GENERATORS[op](Source(5, False))
                parameters = list(good.parameters)
                parameters[place] = value
                if (op, place) == ("shortcut_pad_s8", 3):
                    parameters[place] = parameters[2] + parameters[4] - 1
                yield op, Case(op, tuple(parameters), good.arrays, None)
    good = conv2d_s8(Source(5, False))
    crossed = (*good.parameters[:13], 5, 4)
    yield "conv2d_s8", Case("conv2d_s8", crossed, good.arrays, None)
    for shift in (-32, 31):
        shifts = np.full_like(good.arrays[5], -3)
        shifts[-1] = shift
        yield "conv2d_s8", Case("conv2d_s8", good.parameters, (*good.arrays[:5], shifts), None)


def test_kernels_refuse_illegal_parameters() -> None:
    needs_host()
    variants = [(op, variant) for op, variant, _ in ROWS]
    cases = [(op, variant, case) for op, case in refusals() for o, variant in variants if o == op]
    check(cases, run_host(host_harness(), encode(cases)))


@pytest.mark.qemu
@pytest.mark.parametrize(
    "target", ["cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"]
)
def test_kernels_equal_oracle_on_target(target: str, tmp_path: Path) -> None:
    needs_qemu()
    program = compile_target("harness", target, SOURCES)
    cases = [
        (op, variant, GENERATORS[op](Source(seed, seed % 2 == 1)))
        for op, variant, _ in ROWS
        for seed in range(12)
    ]
    output, _ = run_target(program, target, tmp_path, encode(cases))
    check(cases, output)


def requant_in_c(triples: Sequence[tuple[int, int, int]]) -> list[int]:
    columns = [np.array(column, np.int32) for column in zip(*triples, strict=True)]
    room = np.zeros(len(triples), np.int32)
    case = Case("requant", (), (columns[0], room, columns[1], columns[2]), None)
    ((status, _, data),) = answers(run_host(host_harness(), case.encode(len(ROWS))))
    assert status == OK
    return list(np.frombuffer(data, np.int32))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(*INT32) | st.integers(-(1 << 20), 1 << 20),
            st.integers(0, INT32[1]) | st.integers(1 << 30, INT32[1]),
            st.integers(-31, 30),
        ),
        min_size=1,
        max_size=200,
    )
)
@example(
    [(a, m, s) for a in (*INT32, -1, 0, 1) for m in (0, 1, 1 << 30, INT32[1]) for s in (-31, 0, 30)]
)
# Ties of the first rounding, and of the second: both signs.
@example([(a, 1 << 30, s) for a in range(-9, 10) for s in (0, -1, -2)])
def test_requant_equals_oracle(triples: list[tuple[int, int, int]]) -> None:
    needs_host()
    assert requant_in_c(triples) == [requant(*triple) for triple in triples]


def test_requant_equals_the_exporter() -> None:
    needs_host()
    from cgate.export.fixedpoint import requantize

    rng = np.random.default_rng(0)
    acc = rng.integers(-(1 << 20), 1 << 20, 3000)
    multiplier = rng.integers(1 << 30, 1 << 31, 3000)
    shift = rng.integers(-16, 9, 3000)
    triples = list(zip(acc.tolist(), multiplier.tolist(), shift.tolist(), strict=True))
    assert requant_in_c(triples) == requantize(acc, multiplier, shift).tolist()


def test_residual_add_covers_all_pairs() -> None:
    """SPEC 5.4 for all 65,536 pairs, against TFLite's ADD with fused RELU at equal scales."""
    needs_host()
    values = np.arange(-128, 128)
    f, stream = (grid.ravel().astype(np.int8) for grid in np.meshgrid(values, values))
    expected = np.clip(f.astype(np.int64) + stream, -128, 127).astype(np.int8)
    parts = [slice(i, i + 8192) for i in range(0, 65536, 8192)]
    for op, variant, _ in ROWS:
        if op == "residual_add_s8":
            cases = [
                (op, variant, Case(op, (8192,), (f[part], stream[part]), expected[part]))
                for part in parts
            ]
            check(cases, run_host(host_harness(), encode(cases)))

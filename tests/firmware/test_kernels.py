"""Every kernel against an oracle written here with Python and numpy, on the host and on targets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from c_programs import PORT, compile_host, compile_target, run_host, run_target
from cgate.core.plan import Add
from cgate.core.targets import core_features
from cgate.export.fixedpoint import requantize
from cgate.export.kernels import CONV_KERNELS, DSP_SCRATCH, ConvLayer
from cgate.export.softmax import exp_table, softmax
from kernel_harness import ROWS, SOURCES, Case, answers, encode
from tiny import needs_host, needs_qemu

HOST_ROWS = [row[:2] for row in ROWS if row[2] == "any"]
DSP_TARGETS = ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"]
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


def convolve(source: Source, layer: ConvLayer, x: NDArray[np.int8] | None = None) -> Case:
    """A random call of this convolution, with the weights packed for every kernel that can."""
    (h, w, cin), (oh, ow, cout) = layer.in_shape, layer.out_shape
    kh, kw = layer.weights.shape[1:3]
    stride, top, left, zp_in = layer.stride, layer.pad_top, layer.pad_left, layer.in_zero_point
    low = -128 if source.rng.random() < 0.6 else source.whole(-128, 127)
    high = 127 if low == -128 and source.rng.random() < 0.8 else source.whole(low, 127)
    x = source.int8(h, w, cin) if x is None else x
    padded = np.zeros((oh * stride + kh + top, ow * stride + kw + left, cin), np.int64)
    padded[top : top + h, left : left + w] = x.astype(np.int64) - zp_in
    y = np.zeros((oh, ow, cout), np.int8)
    flat = layer.weights.reshape(cout, -1).astype(np.int64)
    for i, j in np.ndindex(oh, ow):
        window = padded[i * stride : i * stride + kh, j * stride : j * stride + kw]
        sums = flat @ window.ravel() + layer.bias
        for o in range(cout):
            scaled = requant(int(sums[o]), int(layer.multiplier[o]), int(layer.shift[o]))
            y[i, j, o] = clamp(layer.out_zero_point + scaled, low, high)
    parameters = (h, w, cin, oh, ow, cout, kh, kw, stride, top, left, zp_in)
    packed = {
        variant(kernel.name): kernel.pack(layer)
        for kernel in CONV_KERNELS.values()
        if kernel.refuses(layer) is None
    }
    sizes = {variant(name): CONV_KERNELS[name].scratch(layer) for name in CONV_KERNELS}
    return Case(
        "conv2d_s8",
        (*parameters, layer.out_zero_point, low, high),
        (x, source.int8(oh, ow, cout), layer.weights, layer.bias, layer.multiplier, layer.shift),
        y,
        packed,
        sizes,
    )


def constants(source: Source, cout: int) -> dict[str, Any]:
    """Random zero points and requantisation; every second layer has usual shifts only."""
    shifts = (-12, -4) if source.rng.random() < 0.5 else (-25, 3)
    return {
        "in_zero_point": source.whole(-128, 127),
        "out_zero_point": source.whole(-128, 127),
        "bias": source.rng.integers(-100000, 100000, cout).astype(np.int32),
        "multiplier": np.array([source.multiplier() for _ in range(cout)], np.int32),
        "shift": np.array([source.whole(*shifts) for _ in range(cout)], np.int8),
    }


def conv2d_s8(source: Source, largest: int = 7) -> Case:
    if source.rng.random() < 0.5:
        return conv2d_s8_3x3(source)
    if source.rng.random() < 0.4:
        return conv2d_s8_strided(source)
    h, w, cin, cout = (source.whole(1, largest) for _ in range(4))
    if source.rng.random() < 0.4:
        cin *= 4
    kh, kw, stride = source.whole(1, 5), source.whole(1, 5), source.whole(1, 3)
    top, left = source.whole(0, kh - 1), source.whole(0, kw - 1)
    oh = (h + top + source.whole(0, kh - 1) - 1) // stride + 1
    ow = (w + left + source.whole(0, kw - 1) - 1) // stride + 1
    weights = source.int8(cout, kh, kw, cin, low=-127)
    shapes = ((h, w, cin), (oh, ow, cout), stride, top, left)
    return convolve(source, ConvLayer(*shapes, weights=weights, **constants(source, cout)))


def conv2d_s8_3x3(source: Source) -> Case:
    """What the Winograd kernel can do; every third has sums as large as they can be."""
    h, w = source.whole(1, 13), source.whole(1, 19)
    # 16, 32 and 64 have code of their own.
    cin, cout = 4 * int(source.rng.choice([1, 2, 3, 4, 5, 6, 8, 16])), 4 * source.whole(1, 3)
    if source.rng.random() < 0.3:
        cin = source.whole(1, 11)
    weights = source.int8(cout, 3, 3, cin, low=-127)
    weights[0] = 127
    shapes = ((h, w, cin), (h, w, cout), 1, 1, 1)
    return convolve(source, ConvLayer(*shapes, weights=weights, **constants(source, cout)))


def conv2d_s8_strided(source: Source) -> Case:
    """What the kernel for stride 2 can do, with any padding that a 3x3 kernel can have."""
    h, w = source.whole(1, 13), source.whole(1, 19)
    cin, cout = 4 * source.whole(1, 9), 4 * source.whole(1, 3)
    top, left = source.whole(0, 2), source.whole(0, 2)
    oh = (h + top + source.whole(0, 2) - 1) // 2 + 1
    ow = (w + left + source.whole(0, 2) - 1) // 2 + 1
    weights = source.int8(cout, 3, 3, cin, low=-127)
    weights[0] = 127
    shapes = ((h, w, cin), (oh, ow, cout), 2, top, left)
    return convolve(source, ConvLayer(*shapes, weights=weights, **constants(source, cout)))


def depthwise_conv2d_s8(source: Source, largest: int = 7) -> Case:
    h, w, cin, times = (*(source.whole(1, largest) for _ in range(3)), source.whole(1, 3))
    cin *= 4 if source.rng.random() < 0.4 else 1
    cout = cin * times
    kh, kw, stride = source.whole(1, 5), source.whole(1, 5), source.whole(1, 3)
    top, left = source.whole(0, kh - 1), source.whole(0, kw - 1)
    oh = (h + top + source.whole(0, kh - 1) - 1) // stride + 1
    ow = (w + left + source.whole(0, kw - 1) - 1) // stride + 1
    weights = source.int8(1, kh, kw, cout, low=-127)
    shapes = ((h, w, cin), (oh, ow, cout), stride, top, left)
    return depthwise(source, ConvLayer(*shapes, weights=weights, **constants(source, cout)))


def depthwise(source: Source, layer: ConvLayer) -> Case:
    """A convolution in which a channel's weights for all other inputs are zero."""
    weights = layer.weights
    (_, kh, kw, cout), cin = weights.shape, layer.in_shape[2]
    full = np.zeros((cout, kh, kw, cin), np.int8)
    for o in range(cout):
        full[o, :, :, o * cin // cout] = weights[0, :, :, o]
    dense = convolve(source, replace(layer, weights=full))
    arrays = (*dense.arrays[:2], weights, *dense.arrays[3:])
    return Case("depthwise_conv2d_s8", dense.parameters, arrays, dense.expected)


def pool2d(source: Source, op: str, largest: int = 9) -> Case:
    h, w, c = (source.whole(1, largest) for _ in range(3))
    size, stride = (source.whole(1, 5), source.whole(1, 5)), source.whole(1, 3)
    top, left = source.whole(0, size[0] - 1), source.whole(0, size[1] - 1)
    # Every window holds a part of the map; the last one may hang over its end.
    oh = source.whole(1, (h + top - 1) // stride + 1)
    ow = source.whole(1, (w + left - 1) // stride + 1)
    low = -128 if source.rng.random() < 0.6 else source.whole(-128, 127)
    high = source.whole(low, 127)
    x = source.int8(h, w, c)
    y = np.zeros((oh, ow, c), np.int8)
    for i, j, k in np.ndindex(oh, ow, c):
        rows = range(max(i * stride - top, 0), min(i * stride - top + size[0], h))
        columns = range(max(j * stride - left, 0), min(j * stride - left + size[1], w))
        codes = [int(x[row, column, k]) for row in rows for column in columns]
        if op == "max_pool2d_s8":
            result = max(codes)
        else:
            half = len(codes) // 2
            total = sum(codes)
            result = (abs(total) + half) // len(codes) * (1 if total > 0 else -1)
        y[i, j, k] = clamp(result, low, high)
    parameters = (h, w, c, oh, ow, *size, stride, top, left, low, high)
    return Case(op, parameters, (x, source.int8(oh, ow, c)), y)


def max_pool2d_s8(source: Source) -> Case:
    return pool2d(source, "max_pool2d_s8")


def avg_pool2d_s8(source: Source) -> Case:
    return pool2d(source, "avg_pool2d_s8")


def add_s8(source: Source, largest: int = 300) -> Case:
    size = source.whole(1, largest)
    zero_points = [source.whole(-128, 127) for _ in range(3)]
    low = source.whole(-128, 127) if source.rng.random() < 0.3 else -128
    high = 127 if source.rng.random() < 0.7 else source.whole(low, 127)
    multipliers = [source.multiplier() for _ in range(3)]
    # One input is halved and the other not magnified; the output undoes most of the 2^20.
    shifts = [0, source.whole(-9, 0), source.whole(-22, -14)]
    if source.rng.random() < 0.7:  # the exporter's: halved exactly, sometimes both
        multipliers[0] = 1 << 30
        if source.rng.random() < 0.2:
            multipliers[1], shifts[1] = 1 << 30, 0
    if source.rng.random() < 0.5:
        shifts[:2], multipliers[:2] = shifts[1::-1], multipliers[1::-1]
    f, stream = source.int8(size), source.int8(size)
    y = np.zeros(size, np.int8)
    for i in range(size):
        total = 0
        for k, q in enumerate((f[i], stream[i])):
            total += requant((int(q) - zero_points[k]) << 20, multipliers[k], shifts[k])
        y[i] = clamp(zero_points[2] + requant(total, multipliers[2], shifts[2]), low, high)
    parameters = (size, *zero_points, low, high, *multipliers, *shifts)
    return Case("add_s8", parameters, (f, stream), y, scratch={"dsp": DSP_SCRATCH[Add]})


def mean_s8(source: Source, largest: int = 9) -> Case:
    h, w, c = (source.whole(1, largest) for _ in range(3))
    if source.rng.random() < 0.3:  # more pixels than an int16 sum can take
        h, w = source.whole(1, 26), source.whole(1, 26)
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


def softmax_s8(source: Source, largest: int = 40) -> Case:
    """The oracle is the exporter's, which tests/export/test_softmax.py holds to TFLite's."""
    rows = source.whole(1, 3)
    depth = source.whole(1, 511) if source.rng.random() < 0.1 else source.whole(1, largest)
    table = exp_table(float(np.float32(10 ** source.rng.uniform(-4, 1))), 1.0)
    x = source.int8(rows, depth)
    return Case(
        "softmax_s8", (rows, depth), (x, source.int8(rows, depth), table), softmax(x, table)
    )


GENERATORS: dict[str, Callable[[Source], Case]] = {
    "conv2d_s8": conv2d_s8,
    "depthwise_conv2d_s8": depthwise_conv2d_s8,
    "max_pool2d_s8": max_pool2d_s8,
    "avg_pool2d_s8": avg_pool2d_s8,
    "mean_s8": mean_s8,
    "mean_max_s8": mean_max_s8,
    "shortcut_pad_s8": shortcut_pad_s8,
    "residual_add_s8": residual_add_s8,
    "add_s8": add_s8,
    "softmax_s8": softmax_s8,
}


# The harness.


@cache
def host_harness() -> Path:
    return compile_host("harness", [*SOURCES, PORT / "host" / "cg_host.c"])


def variant(kernel: str) -> str:
    return kernel.split("__")[1]


def check(cases: Sequence[tuple[str, str, Case]], output: bytes) -> None:
    replies = list(answers(output))
    assert len(replies) == len(cases)
    for (op, variant, case), (status, scratch, data) in zip(cases, replies, strict=True):
        where = f"cg_{op}__{variant} {case.parameters}"
        if case.expected is None:
            assert status == ERR_PARAM, where
            assert data == case.arrays[1].tobytes(), f"{where} wrote although it refused"
        else:
            assert status == OK, f"{where}: status {status:#x}"
            assert scratch == case.scratch.get(variant, 0), where
            np.testing.assert_array_equal(
                np.frombuffer(data, np.int8).reshape(case.expected.shape), case.expected, where
            )


def test_every_row_has_an_oracle() -> None:
    assert ROWS
    assert {op for op, _, _ in ROWS} == set(GENERATORS)


@pytest.mark.parametrize(("op", "variant"), HOST_ROWS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), extreme=st.booleans())
def test_kernel_equals_oracle(op: str, variant: str, seed: int, extreme: bool) -> None:
    needs_host()
    cases = [(op, variant, GENERATORS[op](Source(seed + i, extreme))) for i in range(3)]
    check(cases, run_host(host_harness(), encode(cases)))


def refusals() -> Iterator[tuple[str, Case]]:
    """Calls that a kernel must refuse: one field of a good call made illegal."""
    fields: dict[str, dict[int, tuple[int, ...]]] = {
        "conv2d_s8": {8: (0,), 11: (-129, 128), 12: (-129, 128)},
        "depthwise_conv2d_s8": {2: (0, 1000), 8: (0,), 11: (-129, 128), 12: (-129, 128)},
        "max_pool2d_s8": {0: (0,), 5: (0,), 7: (0,), 8: (99,), 9: (99,), 3: (99,), 4: (99,)},
        "avg_pool2d_s8": {1: (0,), 6: (0,), 7: (0,), 8: (99,), 9: (99,), 3: (99,), 4: (99,)},
        "add_s8": {1: (-129,), 2: (128,), 3: (128,), 6: (-1,), 9: (1,), 10: (-32,), 11: (1,)},
        "mean_s8": {0: (0,), 1: (0,), 3: (-129, 128), 4: (-129, 128), 6: (-32, 31)},
        "mean_max_s8": {0: (0,), 1: (0,), 3: (-129, 128), 5: (-32, 31)},
        "softmax_s8": {1: (0, 512)},
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
                yield op, replace(good, parameters=tuple(parameters), expected=None)
    good = conv2d_s8(Source(5, False))
    crossed = (*good.parameters[:13], 5, 4)
    yield "conv2d_s8", replace(good, parameters=crossed, expected=None)
    for shift in (-32, 31):
        shifts = np.full_like(good.arrays[5], -3)
        shifts[-1] = shift
        packed = {name: words.copy() for name, words in good.packed.items()}
        for words in packed.values():
            words[4 * len(shifts) - 1] = -shift  # `right` of the last cg_dsp_channel
        arrays = (*good.arrays[:5], shifts)
        yield "conv2d_s8", replace(good, arrays=arrays, packed=packed, expected=None)


def test_kernels_refuse_illegal_parameters() -> None:
    needs_host()
    cases = [(op, variant, case) for op, case in refusals() for o, variant in HOST_ROWS if o == op]
    check(cases, run_host(host_harness(), encode(cases)))


def possible(op: str, variant: str, case: Case) -> bool:
    """A packed kernel can do the case if the exporter would let it."""
    return variant == "ref" or op != "conv2d_s8" or variant in case.packed


def runnable(target: str, case: Case) -> list[str]:
    """The variants of a convolution that a core can run and the exporter would let it."""
    features = core_features(target)
    return [
        variant
        for op, variant, needs in ROWS
        if op == case.op and needs in features and possible(op, variant, case)
    ]


@cache
def some_cases(count: int) -> list[Case]:
    """`count` random cases of every generator."""
    return [
        generate(Source(seed, seed % 3 == 1))
        for generate in GENERATORS.values()
        for seed in range(count)
    ]


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m3", *DSP_TARGETS])
def test_kernels_equal_oracle_on_target(target: str, tmp_path: Path) -> None:
    needs_qemu()
    program = compile_target("harness", target, SOURCES)
    features = core_features(target)
    cases = [
        (op, variant, case)
        for op, variant, needs in ROWS
        for case in [*some_cases(12 if variant == "ref" else 250), *(c for _, c in refusals())]
        if case.op == op and possible(op, variant, case) and needs in features
    ]
    output, _ = run_target(program, target, tmp_path, encode(cases))
    check(cases, output)


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("cin", [64, 112])
def test_winograd_is_exact_where_its_sums_wrap(cin: int, target: str, tmp_path: Path) -> None:
    """Inputs and weights that drive a sum in the transformed domain beyond int32."""
    needs_qemu()
    source = Source(3, False)
    weights = np.full((4, 3, 3, cin), 127, np.int8)
    weights[1] = -127
    shapes = ((8, 12, cin), (8, 12, 4), 1, 1, 1)
    layer = ConvLayer(*shapes, weights=weights, **constants(source, 4))
    layer = replace(layer, in_zero_point=-128, shift=np.full(4, -17, np.int8))
    # Of a tile's rows and columns, 0, 4 and 2: their products have weights 16, 25 and less.
    x = np.full((8, 12, cin), -128, np.int8)
    x[3::4, 3::4] = 127
    x[1::4, 1::4] = 127
    assert 6 * 6 * 127 * 255 * (16 + 25) * cin > 1 << 31
    case = convolve(source, layer, x)
    assert "dsp_winograd" in case.packed
    program = compile_target("harness", target, SOURCES)
    cases = [("conv2d_s8", variant, case) for variant in runnable(target, case)]
    output, _ = run_target(program, target, tmp_path, encode(cases))
    check(cases, output)


@pytest.mark.qemu
@pytest.mark.parametrize("in_zero_point", [-128, 127])
def test_helium_wraps_as_ref_does(in_zero_point: int, tmp_path: Path) -> None:
    """Biases at the ends of int32, the largest products, every shift: no other kernel may."""
    needs_qemu()
    source = Source(6, True)
    shifts = np.arange(-31, 29, dtype=np.int8)  # a multiple of four, or depthwise goes to ref
    count = len(shifts)
    cases = []
    for bias in INT32:
        layer = ConvLayer(
            *((3, 5, 7), (3, 5, count), 1, 1, 1, in_zero_point, -1),
            weights=source.int8(count, 3, 3, 7),
            bias=np.full(count, bias, np.int32),
            multiplier=np.array([source.multiplier() for _ in shifts], np.int32),
            shift=shifts,
        )
        case = convolve(source, layer)
        assert runnable("cortex-m55", case) == ["ref", "mve"]
        cases += [("conv2d_s8", variant, case) for variant in ("ref", "mve")]
        each = replace(layer, in_shape=(3, 5, count), weights=source.int8(1, 3, 3, count))
        case = depthwise(source, each)
        cases += [("depthwise_conv2d_s8", name, case) for name in runnable("cortex-m55", case)]
    program = compile_target("harness", "cortex-m55", SOURCES)
    output, _ = run_target(program, "cortex-m55", tmp_path, encode(cases))
    check(cases, output)


@pytest.mark.qemu
@pytest.mark.parametrize("target", DSP_TARGETS)
def test_phases_are_exact_at_the_largest_factors(target: str, tmp_path: Path) -> None:
    """Differences of differences as large as they get, with the largest weights."""
    needs_qemu()
    source = Source(4, False)
    weights = np.full((8, 3, 3, 64), 127, np.int8)
    weights[1] = -127
    weights[2:, ::2, ::2] = -127
    shapes = ((9, 17, 64), (5, 9, 8), 2, 1, 1)
    layer = ConvLayer(*shapes, weights=weights, **constants(source, 8))
    layer = replace(layer, shift=np.full(8, -16, np.int8))
    cases = []
    for in_zero_point in (-128, 127):
        for parity in (0, 1):
            # Of neighbours with even numbers one is lowest and one highest, in both directions.
            y, x = np.ogrid[:9, :17]
            signs = (y // 2 + x // 2 + parity) % 2 == 0
            ends = np.where(signs[..., None], 127, -128) * np.ones(64, np.int64)
            changed = replace(layer, in_zero_point=in_zero_point)
            case = convolve(source, changed, ends.astype(np.int8))
            assert "dsp_phases" in case.packed
            cases += [("conv2d_s8", name, case) for name in runnable(target, case)]
    program = compile_target("harness", target, SOURCES)
    output, _ = run_target(program, target, tmp_path, encode(cases))
    check(cases, output)


@pytest.mark.qemu
@pytest.mark.parametrize("macro", ["CG_DSP_NO_ASM", "CG_DSP_SHORT_LOOPS"])
def test_other_builds_of_the_dsp_kernels_are_right(macro: str, tmp_path: Path) -> None:
    """The C that says what the assembly does, and loops for slow flash, against the same oracle."""
    needs_qemu()
    program = compile_target(macro.lower(), "cortex-m4", SOURCES, f"-D{macro}")
    cases = [
        (op, variant, case)
        for op, variant, needs in ROWS
        for case in some_cases(60)
        if case.op == op and needs == "dsp" and possible(op, variant, case)
    ]
    output, _ = run_target(program, "cortex-m4", tmp_path, encode(cases))
    check(cases, output)


HARNESS_VALUES = 1 << 13


def requant_in_c(acc: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> NDArray[np.int32]:
    columns = np.array([acc, multiplier, shift], np.int64).astype(np.int32)
    parts = np.split(columns, range(HARNESS_VALUES, columns.shape[1], HARNESS_VALUES), axis=1)
    cases = [
        Case("requant", (), (part[0], np.zeros_like(part[0]), part[1], part[2]), None)
        for part in parts
    ]
    found = list(
        answers(run_host(host_harness(), b"".join(case.encode(len(ROWS)) for case in cases)))
    )
    assert all(status == OK for status, _, _ in found)
    return np.frombuffer(b"".join(data for _, _, data in found), np.int32)


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
    found = requant_in_c(*zip(*triples, strict=True))
    assert found.tolist() == [requant(*triple) for triple in triples]


MULTIPLIERS = (0, 1, 1 << 30, (1 << 30) + 1, 1518500250, (1 << 31) - 2, (1 << 31) - 1)
SHIFTS = range(-31, 31)


def legal(acc: Int, shift: int) -> Int:
    """The accumulators that stay in int32 when shifted."""
    return acc[np.abs(acc.astype(np.float64)) * 2.0 ** max(shift, 0) < 2.0**31]


def test_requant_equals_the_exporter_at_the_ends_of_everything() -> None:
    """Every shift and the multipliers' ends, with accumulators around every power of two."""
    needs_host()
    powers = 1 << np.arange(31)
    around = np.concatenate([powers - 1, powers, powers + 1, [0, 3, 5, 7, INT32[1]]])
    around = np.unique(np.concatenate([-around, around, [INT32[0]]]))
    triples = [
        (acc, multiplier, shift)
        for shift in SHIFTS
        for multiplier in MULTIPLIERS
        for acc in legal(around[around <= INT32[1]], shift)
    ]
    columns = np.array(triples).T
    assert (requant_in_c(*columns) == requantize(*columns)).all()


@pytest.mark.parametrize("shift", [-31, -16, -9, -8, -7, -1, 0, 1, 5])
def test_requant_equals_the_exporter_for_all_small_accumulators(shift: int) -> None:
    """All of -2^15 .. 2^15: every tie of both roundings at these shifts."""
    needs_host()
    acc = legal(np.arange(-(1 << 15), (1 << 15) + 1), shift)
    for multiplier in MULTIPLIERS:
        columns = acc, np.full(len(acc), multiplier), np.full(len(acc), shift)
        assert (requant_in_c(*columns) == requantize(*columns)).all()


def requant_of_dsp(acc: int, multiplier: int, right: int, zero_point: int) -> int:
    """cg_dsp_requant of firmware/src/dsp/cg_dsp.h: SMMLAR, a shift and a saturation."""
    addend = (1 << (right - 1)) + (zero_point << right) + (-1 if acc < 0 else 0)
    high = ((addend << 32) + 2 * acc * multiplier + (1 << 31)) >> 32
    assert INT32[0] <= addend <= INT32[1]
    return clamp(((high + (1 << 31)) % (1 << 32) - (1 << 31)) >> right)


@settings(max_examples=2000, deadline=None)
@given(
    st.integers(-(1 << 30) + 1, (1 << 30) - 1) | st.integers(-(1 << 16), 1 << 16),
    st.integers(0, INT32[1]) | st.sampled_from(MULTIPLIERS),
    st.integers(1, 22),
    st.integers(-128, 127),
)
def test_requantisation_in_five_instructions_is_exact(
    acc: int, multiplier: int, right: int, zero_point: int
) -> None:
    """What firmware/src/dsp/cg_dsp.h claims, for every argument that it allows."""
    wanted = clamp(zero_point + requant(acc, multiplier, -right))
    assert requant_of_dsp(acc, multiplier, right, zero_point) == wanted


def test_residual_add_covers_all_pairs() -> None:
    """SPEC 5.4 for all 65,536 pairs, against TFLite's ADD with fused RELU at equal scales."""
    needs_host()
    values = np.arange(-128, 128)
    f, stream = (grid.ravel().astype(np.int8) for grid in np.meshgrid(values, values))
    expected = np.clip(f.astype(np.int64) + stream, -128, 127).astype(np.int8)
    case = Case("residual_add_s8", (65536,), (f, stream), expected)
    cases = [(op, variant, case) for op, variant in HOST_ROWS if op == "residual_add_s8"]
    check(cases, run_host(host_harness(), encode(cases)))

"""Small int8 .tflite networks with random integers, written with the project's own emitter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cgate.export.tflite import Model, Subgraph


class Net:
    """A network under construction; every method adds an operator to the end of it.

    Scales follow from the sizes, so that outputs use their range and some values saturate.
    """

    def __init__(self, shape: Sequence[int], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.model = Model("a test's network")
        self.graph: Subgraph = self.model.subgraph("main")
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.scales: dict[int, tuple[float, int]] = {}
        self.input = self.x = self.tensor(shape, float(self.rng.uniform(0.005, 0.05)))

    def tensor(self, shape: Sequence[int], scale: float, zero_point: int | None = None) -> int:
        scale = float(np.float32(scale))
        zero = int(self.rng.integers(-128, 128)) if zero_point is None else zero_point
        index = self.graph.tensor(f"t{len(self.shapes)}", shape, scale=scale, zero_point=zero)
        self.shapes[index], self.scales[index] = tuple(shape), (scale, zero)
        return index

    def like(self, shape: Sequence[int]) -> int:
        return self.tensor(shape, *self.scales[self.x])

    def weights(
        self, shape: tuple[int, ...], outputs: int, axis: int, per_channel: bool = True
    ) -> tuple[int, int, float]:
        """Weights and bias for `outputs` channels, and a scale that their output uses well."""
        source, scale = self.scales[self.x][0], float(self.rng.uniform(0.02, 0.2))
        inputs = int(np.prod(shape)) / outputs
        usual = scale * 60 / (source * np.sqrt(inputs) * 70 * 70)
        spread = self.rng.uniform(0.5, 1.5, outputs if per_channel else 1)
        scales = (usual * spread).astype(np.float32)
        data = self.rng.integers(-127, 128, shape).astype(np.int8)
        w = self.graph.tensor("w", shape, scale=scales, data=data, axis=axis)
        bias = self.rng.integers(-4000, 4000, outputs).astype(np.int32)
        b = self.graph.tensor("b", (outputs,), np.int32, scale=source * scales, data=bias)
        return w, b, scale

    def convolve(
        self,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        stride: int = 1,
        same: bool = True,
        activation: str = "NONE",
        depthwise: bool = False,
    ) -> int:
        _, height, width, channels = self.shapes[self.x]
        if depthwise:
            shape, axis = (1, *kernel, outputs), 3
        else:
            shape, axis = (outputs, *kernel, channels), 0
        w, b, scale = self.weights(shape, outputs, axis)
        rows, columns = (
            -(-size // stride) if same else (size - k) // stride + 1
            for size, k in zip((height, width), kernel, strict=True)
        )
        y = self.tensor((1, rows, columns, outputs), scale)
        add = self.graph.depthwise_conv2d if depthwise else self.graph.conv2d
        add(self.x, w, b, y, stride=stride, same=same, activation=activation)
        self.x = y
        return y

    def pad(self, pairs: Sequence[tuple[int, int]]) -> int:
        shape = [n + sum(pair) for n, pair in zip(self.shapes[self.x], pairs, strict=True)]
        y = self.like(shape)
        self.graph.pad(self.x, pairs, y)
        self.x = y
        return y

    def pool(
        self,
        builtin: str,
        size: tuple[int, int],
        stride: tuple[int, int],
        same: bool = False,
        activation: str = "NONE",
    ) -> int:
        _, height, width, channels = self.shapes[self.x]
        rows, columns = (
            -(-n // step) if same else (n - k) // step + 1
            for n, k, step in zip((height, width), size, stride, strict=True)
        )
        y = self.like((1, rows, columns, channels))
        self.graph.pool(
            builtin, self.x, y, size=size, stride=stride, same=same, activation=activation
        )
        self.x = y
        return y

    def add(self, other: int, activation: str = "NONE") -> int:
        scale = max(self.scales[self.x][0], self.scales[other][0]) * self.rng.uniform(0.8, 1.5)
        y = self.tensor(self.shapes[self.x], scale)
        self.graph.add(other, self.x, y, activation=activation)
        self.x = y
        return y

    def mean(self) -> int:
        y = self.tensor((1, 1, 1, self.shapes[self.x][3]), self.scales[self.x][0] / 3)
        self.graph.mean(self.x, y)
        self.x = y
        return y

    def quantize(self) -> int:
        y = self.tensor(self.shapes[self.x], self.scales[self.x][0] * self.rng.uniform(0.5, 2))
        self.graph.quantize(self.x, y)
        self.x = y
        return y

    def reshape(self, shape: Sequence[int]) -> int:
        y = self.like(shape)
        self.graph.reshape(self.x, y)
        self.x = y
        return y

    def dense(self, outputs: int, activation: str = "NONE", per_channel: bool = False) -> int:
        inputs = int(np.prod(self.shapes[self.x]))
        w, b, scale = self.weights((outputs, inputs), outputs, 0, per_channel)
        y = self.tensor((1, outputs), scale)
        self.graph.fully_connected(self.x, w, b, y, activation=activation)
        self.x = y
        return y

    def softmax(self) -> int:
        y = self.tensor(self.shapes[self.x], 1 / 256, -128)
        self.graph.softmax(self.x, y, 1.0)
        self.x = y
        return y

    def file(self) -> bytes:
        """The network from the input to the last operator's output."""
        self.graph.interface([self.input], [self.x])
        return self.model.pack()


def random_net(seed: int) -> bytes:
    """A classifier with every operator that can be imported, in an order that varies."""
    rng = np.random.default_rng(seed)

    def one_of(*values: str) -> str:
        return values[int(rng.integers(len(values)))]

    size = int(rng.integers(9, 15))
    net = Net((1, size, int(rng.integers(9, 15)), int(rng.choice([1, 3, 4]))), seed)
    if rng.random() < 0.5:
        net.pad([(0, 0), (1, 1), (2, 1), (0, 0)])
    net.convolve(
        8, stride=int(rng.integers(1, 3)), same=bool(rng.random() < 0.5), activation="RELU"
    )
    skip = net.x
    for _ in range(int(rng.integers(1, 3))):
        net.convolve(8, activation=one_of("NONE", "RELU6"), depthwise=bool(rng.random() < 0.4))
    after = net.x
    net.add(skip, one_of("NONE", "RELU", "RELU6"))
    if rng.random() < 0.5:
        net.add(after)  # needed after the sum that would have taken its memory
    if rng.random() < 0.5:
        net.quantize()
    if rng.random() < 0.5:
        net.pool(one_of("MAX_POOL_2D", "AVERAGE_POOL_2D"), (3, 2), (2, 2), bool(rng.random() < 0.5))
    net.convolve(16, (1, 1), activation="RELU")
    if rng.random() < 0.3:
        net.pad([(0, 0), (0, 0), (0, 0), (2, 2)])
    _, height, width, channels = net.shapes[net.x]
    if rng.random() < 0.4:
        net.mean()
    elif rng.random() < 0.7:
        net.pool("AVERAGE_POOL_2D", (height, width), (height, width))
    _, height, width, channels = net.shapes[net.x]
    net.reshape((1, height * width * channels))
    net.dense(7, one_of("NONE", "RELU"))
    if rng.random() < 0.7:
        net.dense(5)
    if rng.random() < 0.7:
        net.softmax()
    return net.file()

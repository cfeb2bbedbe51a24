"""Networks drawn at random: they lower, TFLite agrees, and the arena holds all that is needed."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cgate.core.checkpoint import Checkpoint, Range, weight_shapes
from cgate.core.network import Block, Conv, Exit, Gate, Network, Pool, conv_output, pool_output
from cgate.core.plan import Addition, Convolution, Decision, Plan, Tensor, Unit, Weights
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.emit_tflite import emit_tflite, unit_file
from cgate.export.golden import GoldenUnit
from cgate.export.lower import lower
from cgate.train.networks import NETWORKS, Task, build_network

Int8 = NDArray[np.int8]
RUNS = settings(max_examples=20, deadline=None)


@st.composite
def blocks(draw: st.DrawFn, name: str, channels: int) -> Block:
    """Any block that takes this many channels."""
    shortcut = draw(st.sampled_from(["identity", "pad", "projection", "none"]))
    same = shortcut == "identity"
    outputs = channels if same else channels + draw(st.integers(0, 3))
    convs: list[Conv] = []
    count = draw(st.integers(1, 3))
    for i in range(count):
        last = i == count - 1
        stride = 1 if same else draw(st.sampled_from([1, 1, 2]))
        relu = not last and draw(st.booleans())
        relu6 = relu and draw(st.booleans())
        inputs = convs[-1].out_channels if convs else channels
        out = outputs if last else draw(st.integers(1, 6))
        depthwise = not last and draw(st.booleans())
        kernel = draw(st.sampled_from([1, 3]))
        convs.append(
            Conv(inputs, inputs, kernel, stride, relu, inputs, relu6)
            if depthwise
            else Conv(inputs, out, kernel, stride, relu, 1, relu6)
        )
    kinds = ["controller", "cir-predicted", "anchor", "static"]
    gate = Gate(draw(st.sampled_from(kinds)), 2)
    gated = shortcut != "none" and draw(st.booleans())
    relu = draw(st.booleans())
    relu6 = relu and not gated and draw(st.booleans())
    pools = [None, None, Pool("max", 2, 2), Pool("max", 3, 2, 1), Pool("average", 2, 1)]
    pool = draw(st.sampled_from(pools))
    return Block(name, tuple(convs), shortcut, gate if gated else None, relu, relu6, pool)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A few blocks on a small map; pools only where there is room."""
    sides = draw(st.integers(5, 9)), draw(st.integers(5, 9))
    stem = Conv(2, draw(st.integers(1, 5)), 3, draw(st.sampled_from([1, 2])))
    network = Network("any", (*sides, 2), 128, 64, 3, stem, ())
    height, width = (conv_output(side, stem) for side in sides)
    made: list[Block] = []
    for i in range(draw(st.integers(1, 4))):
        channels = made[-1].body[-1].out_channels if made else stem.out_channels
        block = draw(blocks(f"b{i}", channels))
        for conv in block.body:
            height, width = conv_output(height, conv), conv_output(width, conv)
        if block.pool is not None:
            ends = pool_output(height, block.pool), pool_output(width, block.pool)
            if min(ends) < 1:
                block = replace(block, pool=None)
            else:
                height, width = ends
        made.append(block)
    leaving = [block.name for block in made[:-1] if draw(st.booleans())]
    exits = tuple(Exit(name, draw(st.sampled_from([None, 0.5]))) for name in leaving)
    return replace(network, blocks=tuple(made), exits=exits)


class AnyRange(Mapping[str, Mapping[str, Range]]):
    """A range for every tensor: always the same one for the same name."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, name: str) -> Mapping[str, Range]:
        rng = np.random.default_rng([self.seed, *name.encode()])
        low, high = -float(rng.uniform(0.5, 4)), float(rng.uniform(0.5, 4))
        if name.endswith(("stem", "hidden", "peak")):
            low = 0.0
        return {"open": Range(low, high, low, high)}

    def __iter__(self) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        return 1


def checkpoint(network: Network, seed: int) -> Checkpoint:
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(network).items():
        spread = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        array = rng.normal(1.0 if len(shape) == 1 and "weight" in name else 0.0, spread, shape)
        array = np.abs(array) + 0.3 if name.endswith("running_var") else array
        weights[name] = array.astype(np.float32)
    return Checkpoint(Path(), {}, network, weights, AnyRange(seed), {}, "0" * 64)


def lowered(network: Network, seed: int, kernels: str) -> tuple[Plan, Weights]:
    target = find_target("cortex-m4")
    return lower(checkpoint(network, seed), target, ranges="minmax", kernels=kernels)


def pixels(plan: Plan, count: int, seed: int) -> Int8:
    shape = plan.tensor(plan.input).shape
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (count, *shape)).astype(np.int8)


@RUNS
@given(networks(), st.integers(0, 1000))
def test_every_unit_equals_tflite(network: Network, seed: int) -> None:
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    plan, weights = lowered(network, seed, "ref")
    values = {plan.input: pixels(plan, 3, seed)}
    for unit in plan.units:
        made = reference.run_unit(plan, weights, unit, values)
        golden = GoldenUnit(emit_tflite(plan, weights)[unit_file(unit)])
        outputs = golden([values[name] for name in unit.inputs])
        np.testing.assert_array_equal(outputs[0], made[unit.output], err_msg=unit.name)
        values[unit.output] = made[unit.output]


class Arena:
    """Runs a plan as the firmware does: tensors are places in one piece of memory."""

    def __init__(self, plan: Plan, weights: Weights, x: Int8) -> None:
        self.plan, self.weights = plan, weights
        self.bytes = np.full(plan.arena_size, 85, np.int8)
        self.input, self.output = x.ravel(), np.zeros(plan.tensor(plan.output).size, np.int8)

    def at(self, tensor: Tensor) -> Int8:
        if tensor.offset is None:
            return self.input if tensor.name == self.plan.input else self.output
        return self.bytes[tensor.offset : tensor.offset + tensor.size]

    def read(self, name: str) -> Int8:
        tensor = self.plan.tensor(name)
        return self.at(tensor).reshape(1, *tensor.shape).copy()

    def run(self, unit: Unit) -> None:
        for op in unit.ops:
            if isinstance(op, Decision):
                continue
            names = {op.input, getattr(op, "stream", op.input)}
            values = {name: self.read(name) for name in names}
            single = replace(unit, ops=(op,))
            result = reference.run_unit(self.plan, self.weights, single, values)[op.output]
            if isinstance(op, Convolution) and op.scratch is not None:
                offset, size = op.scratch
                self.bytes[offset : offset + size] = 99
                # Neither input nor output may lie there.
                for name in names:
                    assert (self.read(name) == values[name]).all(), f"{op.output}: scratch"
            self.at(self.plan.tensor(op.output))[:] = result.ravel()
            for name in names - {getattr(op, "stream", None)}:
                # A kernel reads while it writes.
                assert (self.read(name) == values[name]).all(), f"{op.output} over {name}"


@RUNS
@given(networks(), st.integers(0, 1000), st.sampled_from(["ref", "auto"]), st.data())
def test_nothing_that_is_needed_is_written_over(
    network: Network, seed: int, kernels: str, data: st.DataObject
) -> None:
    """Each unit leaves in the arena what it leaves where every tensor has its own memory."""
    plan, weights = lowered(network, seed, kernels)
    opened = {gate.name: data.draw(st.booleans(), label=gate.name) for gate in plan.gates}
    x = pixels(plan, 1, seed)
    arena = Arena(plan, weights, x)
    values = {plan.input: x}
    for unit in plan.units:
        if unit.condition is None or opened[unit.condition]:
            values |= reference.run_unit(plan, weights, unit, values)
            arena.run(unit)
        else:
            values[unit.output] = values[unit.stream]  # in place: nothing moves
        assert (arena.read(unit.output) == values[unit.output]).all(), unit.name


def unavoidable(plan: Plan) -> int:
    """The most bytes that tensors need at one time, wherever they lie; in place is one tensor."""
    home: dict[str, str] = {}

    def root(name: str) -> str:
        return root(home[name]) if name in home else name

    lives: dict[str, list[int]] = {}
    step = 0
    for unit in plan.units:
        for op in unit.ops:
            names = [op.input]
            if not isinstance(op, Decision):
                if isinstance(op, Addition):
                    names.append(op.stream)
                    home[op.output] = op.stream
                names.append(op.output)
            for name in names:
                lives.setdefault(name, []).append(step)
            step += 1
        if unit.condition is not None and root(unit.output) != root(unit.stream):
            home[root(unit.output)] = root(unit.stream)
    spans: dict[str, list[int]] = {}
    for name, steps in lives.items():
        if plan.tensor(name).offset is not None:
            spans.setdefault(root(name), []).extend(steps)
    sizes = {name: -(-plan.tensor(name).size // 16) * 16 for name in spans}
    return max(
        sum(sizes[name] for name, steps in spans.items() if min(steps) <= each <= max(steps))
        for each in range(step)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_named_networks_get_the_smallest_arena_there_is(name: str) -> None:
    task = Task((32, 32, 3), 10, 121, 64)
    network = build_network(name, task, width=0.25, gate=Gate(), gate_downsampling=True)
    plan, _ = lowered(network, 1, "ref")
    assert [gate.block for gate in plan.gates] == [block.name for block in network.gated]
    assert plan.arena_size == unavoidable(plan)

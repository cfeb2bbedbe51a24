"""Imported networks against TFLite's reference kernels on the very file that was imported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cgate.core.errors import CgateError
from cgate.core.plan import Add, Plan, ResidualAdd, ShortcutPad, Weights
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.export.emit_tflite import emit_tflite, unit_file
from cgate.export.emit_tflite_network import NETWORK_FILE
from cgate.export.golden import GoldenUnit
from cgate.export.import_tflite import CONVERTERS, import_tflite, network_name
from synthetic import small_network, write_checkpoint
from tflite_files import Net, random_net

M4 = find_target("cortex-m4")
GOLDEN = 'tflite-runtime is missing: pip install "cgate[golden]"'


def plan_of(content: bytes, kernels: str = "auto") -> tuple[Plan, Weights]:
    return import_tflite(content, "test.tflite", M4, network="test", kernels=kernels)


def images(plan: Plan, count: int, seed: int = 0) -> NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (count, *plan.tensor(plan.input).shape)).astype(np.int8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_integers_are_the_interpreters(seed: int) -> None:
    pytest.importorskip("tflite_runtime", reason=GOLDEN)
    content = random_net(seed)
    plan, weights = plan_of(content)
    x = images(plan, 3, seed)
    (want,) = GoldenUnit(content)([x])
    np.testing.assert_array_equal(reference.run(plan, weights, x).logits, want.reshape(3, -1))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_unit_files_are_exact(seed: int) -> None:
    """The files written for the units of an imported network compute what the units do."""
    pytest.importorskip("tflite_runtime", reason=GOLDEN)
    plan, weights = plan_of(random_net(seed))
    files = emit_tflite(plan, weights)
    values = {plan.input: images(plan, 2, seed)}
    for unit in plan.units:
        values |= reference.run_unit(plan, weights, unit, values)
        (found,) = GoldenUnit(files[unit_file(unit)])([values[name] for name in unit.inputs])
        np.testing.assert_array_equal(found, values[unit.output], unit.name)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_memory_of_what_is_still_needed_is_not_reused(seed: int) -> None:
    """Play the plan in one arena, as the firmware does: only a stream may be written over."""
    plan, weights = plan_of(random_net(seed), "ref")
    x = images(plan, 1, seed)
    arena = np.zeros(plan.arena_size, np.int8)
    output = np.zeros(plan.tensor(plan.output).size, np.int8)

    def memory(name: str) -> NDArray[np.int8]:
        tensor = plan.tensor(name)
        if name == plan.input:
            return x.reshape(-1)
        if tensor.offset is None:
            return output
        return arena[tensor.offset : tensor.offset + tensor.size]

    for unit in plan.units:
        for op in unit.ops:
            names = [op.input, *([op.stream] if isinstance(op, Add | ResidualAdd) else [])]
            seen = {name: memory(name).reshape(1, *plan.tensor(name).shape) for name in names}
            single = replace(unit, inputs=tuple(names), ops=(op,))
            for name, value in reference.run_unit(plan, weights, single, seen).items():
                memory(name)[:] = value.reshape(-1)
    np.testing.assert_array_equal(output, reference.run(plan, weights, x).logits[0])


def test_an_exported_network_comes_back_with_the_same_integers(tmp_path: Path) -> None:
    gated = small_network()
    dense = replace(gated, blocks=tuple(replace(block, gate=None) for block in gated.blocks))
    write_checkpoint(tmp_path / "c", dense, images=8)
    out = tmp_path / "b"
    export_checkpoint(tmp_path / "c", out, M4)
    from cgate.core.plan import load_bundle

    bundle = load_bundle(out)
    plan, weights = plan_of((out / NETWORK_FILE).read_bytes())
    x = images(plan, 8)
    np.testing.assert_array_equal(
        reference.run(plan, weights, x).logits,
        reference.run(bundle.plan, bundle.weights, x).logits,
    )
    ops = [op for unit in plan.units for op in unit.ops]
    assert not any(isinstance(op, Add) for op in ops)  # all sums are of one scale
    assert sum(isinstance(op, ResidualAdd) for op in ops) == len(dense.blocks)


def test_a_sum_of_what_is_needed_later_copies_it() -> None:
    net = Net((1, 4, 4, 2), 3)
    first = net.convolve(4)
    second = net.convolve(4)
    net.add(first)
    net.add(first)
    net.add(second)
    plan, _ = plan_of(net.file())
    copies = [op for unit in plan.units for op in unit.ops if isinstance(op, ShortcutPad)]
    assert [op.output for op in copies] == ["add_2.copy"]


def test_a_reshaped_input_and_a_batch_of_pixels() -> None:
    pytest.importorskip("tflite_runtime", reason=GOLDEN)
    net = Net((1, 36), 1)
    net.reshape((1, 6, 6, 1))
    net.convolve(3, stride=2)
    net.reshape((1, 27))
    net.dense(4)
    content = net.file()
    plan, weights = plan_of(content)
    assert plan.tensor(plan.input).shape == (6, 6, 1)
    x = images(plan, 5)
    (want,) = GoldenUnit(content)([x])
    np.testing.assert_array_equal(reference.run(plan, weights, x).logits, want)


def test_kernels_follow_the_target() -> None:
    content = random_net(0)
    auto, _ = plan_of(content)
    plain, _ = plan_of(content, "ref")
    kernels = {op.kernel for unit in auto.units for op in unit.ops if hasattr(op, "kernel")}
    assert any("dsp" in kernel for kernel in kernels)
    assert not any("dsp" in op.kernel for unit in plain.units for op in unit.ops)  # type: ignore[union-attr]


def refused(content: bytes) -> CgateError:
    with pytest.raises(CgateError) as caught:
        plan_of(content)
    assert caught.value.message.startswith("test.tflite: ")
    return caught.value


def changed(net: Net, change: Any) -> bytes:
    """The file after `change(graph)` on the schema's objects."""
    net.graph.interface([net.input], [net.x])
    change(net.graph._graph)
    return net.model.pack()


def test_an_unsupported_operator_is_named() -> None:
    net = Net((1, 4, 4, 2), 0)
    net.convolve(2)
    y = net.like((1, 4, 4, 2))
    net.graph._operator("LOGISTIC", [net.x], y)
    net.x = y
    error = refused(net.file())
    assert "operator 1 (LOGISTIC, which makes 't2') is not supported" in error.message
    assert all(op in error.message for op in CONVERTERS) and error.hint


def stride_of(rows: int, columns: int) -> Any:
    def change(graph: Any) -> None:
        options = graph.operators[0].builtinOptions
        options.strideH, options.strideW = rows, columns

    return change


def option(name: str, value: Any) -> Any:
    return lambda graph: setattr(graph.operators[0].builtinOptions, name, value)


def input_type(kind: int) -> Any:
    return lambda graph: setattr(graph.tensors[0], "type", kind)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (option("dilationHFactor", 2), "operator 0 (CONV_2D, which makes 't1'): its dilation"),
        (option("fusedActivationFunction", 4), "activation TANH is not supported"),
        (stride_of(1, 2), "strides (1, 2) differ"),
        (stride_of(0, 0), "stride (0, 0) is not in 1 .. 255"),
        (input_type(schema.TensorType.FLOAT32), "the network's input: 't0' is FLOAT32"),
        (lambda graph: graph.inputs.append(1), "2 inputs and 1 outputs"),
        (lambda graph: setattr(graph.tensors[0], "shape", [2, 6, 6, 4]), "one image at a time"),
        (lambda graph: setattr(graph.tensors[3], "shape", [1, 6, 6, 9]), "should have shape"),
        (lambda graph: graph.operators[0].inputs.pop(0), "'w' is a constant"),
        (lambda graph: graph.operators.clear(), "computes nothing"),
    ],
)
def test_what_cannot_be_imported_is_said(change: Any, words: str) -> None:
    net = Net((1, 6, 6, 4), 0)
    net.convolve(8)
    assert words in refused(changed(net, change)).message


def test_dense_weights_with_a_scale_per_channel_are_refused() -> None:
    net = Net((1, 8), 0)
    net.dense(3, per_channel=True)
    error = refused(net.file())
    assert "3 scales" in error.message and "disable_per_channel" in error.hint


def test_padding_that_nothing_takes_in() -> None:
    net = Net((1, 6, 6, 4), 0)
    net.convolve(8)
    net.pad([(0, 0), (1, 1), (1, 1), (0, 0)])
    net.mean()
    assert "operator 2 (MEAN" in refused(net.file()).message


def test_overflowing_sums_are_refused() -> None:
    net = Net((1, 1, 1, 4), 0)
    net.convolve(1, (1, 1))

    def change(graph: Any) -> None:
        buffer = net.model._model.buffers[graph.tensors[2].buffer]
        buffer.data = np.frombuffer(np.array([2**31 - 1], "<i4").tobytes(), np.uint8)

    assert "can overflow 32 bits" in refused(changed(net, change)).message


@pytest.mark.parametrize(
    ("path", "name"), [("ic01.tflite", "ic01"), ("a b*/c*ö.tflite", "c"), ("/.tflite", "tflite")]
)
def test_network_names_are_legal(path: str, name: str) -> None:
    assert network_name(Path(path)) == name

"""The whole network as one .tflite: the reference's integers, and branches really not taken."""

from __future__ import annotations

import importlib
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from cgate.core.network import Network
from cgate.core.plan import Plan, Weights
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.emit_tflite_network import emit_tflite_network
from cgate.export.golden import INTERPRETERS, GoldenUnit
from cgate.export.lower import lower
from synthetic import SHAPES, random_images, small_network, write_checkpoint

Int8 = NDArray[np.int8]

NETWORKS = {
    "gates": small_network(shape=(12, 12, 3), gate_downsampling=True),
    "exits": small_network(exits=("s1b0", "s2b1")),
    "statistics": small_network(kind="cir-predicted", exits=("s2b0",)),
    "anchors": small_network(shape=(13, 9, 3), kind="anchor"),
    "no branch": small_network(kind="static"),
    **SHAPES,
}
IMAGES = 15


@pytest.fixture(scope="module", params=list(NETWORKS))
def lowered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Network, Plan, Weights]:
    network = NETWORKS[request.param]
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), network, seed=3)
    return network, *lower(checkpoint, find_target("cortex-m4"))


def require(package: str) -> None:
    if package == "tflite-runtime":
        pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")


def poisoned(content: bytes, name: str) -> bytes:
    """The file with a division by zero at the end of one of its graphs: running it fails."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = next(each for each in model.subgraphs if each.name.decode() == name)
    places = []
    for what, value in (("one", 1), ("zero", 0), ("quotient", None)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = what, [1], schema.TensorType.INT32
        tensor.buffer = 0
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.array([value], np.int32).tobytes(), np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        places.append(len(graph.tensors))
        graph.tensors.append(tensor)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FLOOR_DIV
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = places[:2], places[2:]
    operator.builtinOptionsType = schema.BuiltinOptions.FloorDivOptions
    operator.builtinOptions = schema.FloorDivOptionsT()
    model.operatorCodes.append(code)
    graph.operators = [*(graph.operators or []), operator]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def interpreter(content: bytes, package: str, resolver: str) -> Any:
    module: Any = importlib.import_module(INTERPRETERS[package])
    made = module.Interpreter(
        model_content=content,
        experimental_op_resolver_type=getattr(module.OpResolverType, resolver),
    )
    made.allocate_tensors()
    return made


def fails(runner: Any, image: Int8) -> bool:
    runner.set_tensor(runner.get_input_details()[0]["index"], image[None])
    try:
        runner.invoke()
    except RuntimeError as error:
        assert "FLOOR_DIV" in str(error)
        return True
    return False


@pytest.mark.parametrize("package", INTERPRETERS)
def test_answers_and_decisions_are_those_of_the_reference(
    lowered: tuple[Network, Plan, Weights], package: str
) -> None:
    require(package)
    network, plan, weights = lowered
    images = reference.to_input(random_images(network, IMAGES, 9))
    expected = reference.run(plan, weights, images)
    logits, *opened = GoldenUnit(emit_tflite_network(plan, weights), package)([images])
    np.testing.assert_array_equal(logits, expected.logits)
    assert len(opened) == len(plan.gates)
    for place, decisions in enumerate(opened):
        np.testing.assert_array_equal(decisions.reshape(-1), expected.decisions[:, place])


@pytest.mark.parametrize("package", INTERPRETERS)
def test_a_body_is_executed_only_where_the_reference_runs_it(
    lowered: tuple[Network, Plan, Weights], package: str
) -> None:
    """With a division by zero in one body at a time: inference fails iff that body runs."""
    require(package)
    network, plan, weights = lowered
    content = emit_tflite_network(plan, weights)
    images = reference.to_input(random_images(network, IMAGES, 9))
    ran = reference.run(plan, weights, images).ran
    both = False
    for unit in plan.units:
        if unit.condition is not None:
            name, expected = unit.name, ran[:, unit.index]
        elif unit.role == "exit":
            name, expected = f"after {unit.name}", ran[:, unit.index + 1]
        else:
            continue
        runner = interpreter(poisoned(content, name), package, "BUILTIN_REF")
        assert [fails(runner, image) for image in images] == expected.tolist(), unit.name
        both |= bool(expected.any() and not expected.all())
    assert both or not plan.gates, "the random network should use both branches somewhere"


@pytest.mark.parametrize("package", INTERPRETERS)
def test_the_default_resolver_skips_too(
    lowered: tuple[Network, Plan, Weights], package: str
) -> None:
    """Its integers may differ by one here and there (DESIGN.md); its branches are its decisions."""
    require(package)
    network, plan, weights = lowered
    content = emit_tflite_network(plan, weights)
    images = reference.to_input(random_images(network, 8, 9))
    plain = interpreter(content, package, "AUTO")
    _, *gates = (each["index"] for each in plain.get_output_details())
    opened = []
    for image in images:
        assert not fails(plain, image)
        opened.append([bool(plain.get_tensor(index)) for index in gates])
    for unit in plan.units:
        if unit.condition is None:
            continue
        place = [gate.name for gate in plan.gates].index(unit.condition)
        runner = interpreter(poisoned(content, unit.name), package, "AUTO")
        assert [fails(runner, image) for image in images] == [row[place] for row in opened]


def test_inputs_and_outputs_are_named_and_quantised(
    lowered: tuple[Network, Plan, Weights],
) -> None:
    _, plan, weights = lowered
    runner = interpreter(emit_tflite_network(plan, weights), "ai-edge-litert", "BUILTIN_REF")
    (signature,) = runner.get_signature_list().values()
    outputs = {"logits", *(f"{gate.name}.open" for gate in plan.gates)}
    assert signature["inputs"] == [plan.input]
    assert set(signature["outputs"]) == outputs
    for details, name in (
        (runner.get_input_details()[0], plan.input),
        (runner.get_output_details()[0], plan.output),
    ):
        tensor = plan.tensor(name)
        assert details["quantization"] == (np.float32(tensor.scale), tensor.zero_point)

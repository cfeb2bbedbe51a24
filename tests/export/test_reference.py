"""The numpy reference: bit for bit TFLite's reference kernels, and close to the float network."""

import numpy as np
import pytest

from cgate.core.checkpoint import Checkpoint
from cgate.core.network import Network
from cgate.core.plan import Plan, Weights
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.emit_tflite import emit_tflite, unit_file
from cgate.export.fold import fold
from cgate.export.golden import INTERPRETERS, GoldenUnit
from cgate.export.lower import lower
from synthetic import SHAPES, float_tensors, random_images, small_network, write_checkpoint

NETWORKS = {
    "digits-like": small_network(),
    "odd-size": small_network(shape=(13, 9, 3)),
    "cir-predicted": small_network(shape=(12, 12, 3), kind="cir-predicted"),
    "anchor": small_network(kind="anchor", gate_downsampling=True),
    "gated-downsampling": small_network(shape=(12, 12, 3), gate_downsampling=True),
    **SHAPES,
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def lowered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Network, Checkpoint, Plan, Weights]:
    network = NETWORKS[request.param]
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), network, seed=3)
    return network, checkpoint, *lower(checkpoint, find_target("cortex-m4"))


@pytest.mark.parametrize("package", INTERPRETERS)
@pytest.mark.parametrize("gates", reference.FORCE)
def test_every_unit_equals_tflite(
    lowered: tuple[Network, Checkpoint, Plan, Weights], package: str, gates: str
) -> None:
    network, _, plan, weights = lowered
    if package == "tflite-runtime":
        pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    files = emit_tflite(plan, weights)
    values = {plan.input: reference.to_input(random_images(network, 40, 9))}
    steps = {
        step.unit.name: step for step in reference.trace(plan, weights, values["input"], gates)
    }
    for unit in plan.units:
        if unit.condition is not None:
            values[unit.output] = values[unit.stream].copy()
        if unit.name not in steps:
            continue
        step = steps[unit.name]
        inputs = [values[name][step.images] for name in unit.inputs]
        outputs = GoldenUnit(files[unit_file(unit)], package)(inputs)
        np.testing.assert_array_equal(outputs[0], step.output, err_msg=unit.name)
        if unit.role == "gate":
            assert (outputs[1].reshape(-1) == reference.decide(unit, step.output)).all()
        if unit.condition is None:
            values[unit.output] = outputs[0]
        else:
            values[unit.output][step.images] = outputs[0]


def test_residual_add_is_tflite_add_for_all_pairs() -> None:
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    from cgate.export.tflite import Model

    model = Model("add")
    graph = model.subgraph("add")
    shape = (1, 256, 256, 1)
    x = graph.tensor("x", shape, scale=0.0371, zero_point=-128)
    f = graph.tensor("f", shape, scale=0.0371, zero_point=0)
    y = graph.tensor("y", shape, scale=0.0371, zero_point=-128)
    graph.add(x, f, y, activation="RELU")
    graph.interface([x, f], [y])
    codes = np.arange(-128, 128, dtype=np.int8)
    streams, bodies = (each[None, :, :, None] for each in np.meshgrid(codes, codes))
    (result,) = GoldenUnit(model.pack())([streams, bodies])
    np.testing.assert_array_equal(result, reference.residual_add(streams, bodies))


def test_int8_is_close_to_float(lowered: tuple[Network, Checkpoint, Plan, Weights]) -> None:
    network, checkpoint, plan, weights = lowered
    images = random_images(network, 64, 4)
    expected = float_tensors(network, fold(checkpoint), images)["head.logits"].reshape(64, -1)
    result = reference.run(plan, weights, reference.to_input(images), "open")
    output = plan.tensor(plan.output)
    actual = (result.logits.astype(np.float64) - output.zero_point) * output.scale
    error = ((actual - expected) ** 2).sum()
    assert 10 * np.log10((expected**2).sum() / error) > 20  # dB


def test_skipped_bodies_are_not_computed_and_change_nothing(
    lowered: tuple[Network, Checkpoint, Plan, Weights],
) -> None:
    network, _, plan, weights = lowered
    x = reference.to_input(random_images(network, 200, 5))
    learned = reference.run(plan, weights, x)
    both = learned.decisions.any(axis=0) & ~learned.decisions.all(axis=0)
    assert both.any(), "the random network should use both paths somewhere"
    shut = reference.run(plan, weights, x, "shut")
    opened = reference.run(plan, weights, x, "open")
    assert opened.ran.all()
    for unit in plan.units:
        assert shut.ran[:, unit.index].all() == (unit.condition is None)
        if unit.condition is not None:
            gate = [each.name for each in plan.gates].index(unit.condition)
            assert (learned.ran[:, unit.index] == learned.decisions[:, gate]).all()
    same = (learned.ran == shut.ran).all(axis=1)
    assert (learned.logits[same] == shut.logits[same]).all()


def test_an_image_does_not_depend_on_its_batch(
    lowered: tuple[Network, Checkpoint, Plan, Weights],
) -> None:
    network, _, plan, weights = lowered
    x = reference.to_input(random_images(network, 70, 6))
    together = reference.run(plan, weights, x)
    alone = [reference.run(plan, weights, x[i : i + 1]) for i in (0, 33, 69)]
    for i, single in zip((0, 33, 69), alone, strict=True):
        assert (single.logits[0] == together.logits[i]).all()
        assert (single.decisions[0] == together.decisions[i]).all()

"""Every kind of gate in integers: the same decisions on every route, as trained."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cgate.core.checkpoint import CARD, WEIGHTS, Checkpoint, weight_shapes
from cgate.core.errors import EXIT_USAGE, CgateError
from cgate.core.gates import GATE_KINDS
from cgate.core.network import network_macs
from cgate.core.plan import MeanMax, Plan, Tensor, Unit
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.export.emit_tflite import emit_tflite
from cgate.export.fixedpoint import mean_multiplier
from cgate.export.golden import INTERPRETERS, GoldenUnit
from cgate.export.lower import lower
from cgate.export.lowering import LOGIT_SCALE
from cgate.export.tflite import Model
from cgate.host_tools.verify import verify
from synthetic import random_images, small_network, write_checkpoint
from tiny import needs_host

M4 = find_target("cortex-m4")
EXPORTABLE = [name for name, kind in GATE_KINDS.items() if not kind.refusal]


def checkpoint_of(kind: str, folder: Path, seed: int = 3) -> Checkpoint:
    network = small_network(shape=(10, 10, 3), kind=kind, gate_downsampling=True)
    return write_checkpoint(folder, network, seed=seed)


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("kind", EXPORTABLE)
def test_reference_tflite_and_host_c_are_equal(kind: str, seed: int, tmp_path: Path) -> None:
    needs_host()
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    checkpoint = checkpoint_of(kind, tmp_path / "checkpoint", seed)
    export_checkpoint(checkpoint.folder, tmp_path / "bundle", M4)
    images = random_images(checkpoint.network, 30, seed + 5)
    result = verify(
        tmp_path / "bundle",
        images,
        on=("tflite", "host"),
        data="random",
    )
    assert result.equal and [each.route for each in result.comparisons] == ["tflite", "host"]
    gates = 0 if kind == "static" else len(checkpoint.network.gated)
    assert all(each.decisions == 2 * 30 * gates for each in result.comparisons)


@pytest.mark.parametrize("kind", [kind for kind in EXPORTABLE if kind != "static"])
def test_decisions_are_those_of_the_trained_network(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason='pip install "cgate[train]"')
    from cgate.train.gates import CUT
    from cgate.train.ranges import load_model

    checkpoint = checkpoint_of(kind, tmp_path)
    model, _ = load_model(tmp_path)
    plan, weights = lower(checkpoint, M4)
    images = random_images(checkpoint.network, 200, 9)
    with torch.inference_mode():
        logit = model(torch.from_numpy(images)).scores["s1b0"].logit.numpy()
    decisions = reference.run(plan, weights, reference.to_input(images)).decisions[:, 0]
    assert 0.2 < decisions.mean() < 0.8
    # The first gate sees the stem alone. Where its float logit is clear the integers agree.
    clear = np.abs(logit - CUT) > 0.1 * np.abs(logit - CUT).max()
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(decisions[clear], (logit > CUT)[clear])


@pytest.mark.parametrize("kind", EXPORTABLE)
def test_a_gate_costs_what_the_plan_executes(kind: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(kind, tmp_path)
    plan, _ = lower(checkpoint, M4)
    macs = network_macs(checkpoint.network).gates
    assert {unit.block: unit.macs for unit in plan.gates} == {
        block: cost for block, cost in macs.items() if kind != "static"
    }


@pytest.mark.parametrize("kind", [name for name, kind in GATE_KINDS.items() if kind.refusal])
def test_other_kinds_say_why_they_cannot_be_exported(kind: str, tmp_path: Path) -> None:
    network = small_network(kind=kind)
    folder = tmp_path / "checkpoint"
    # Ranges are of no importance: the refusal comes before they are read.
    write_checkpoint(folder, small_network())
    card = (folder / CARD).read_text().replace('"controller"', f'"{kind}"')
    if kind == "random":
        card = card.replace('"rate": null', '"rate": 0.5')
    (folder / CARD).write_text(card)
    arrays = {name: np.ones(shape, np.float32) for name, shape in weight_shapes(network).items()}
    save_file(arrays, folder / WEIGHTS)
    with pytest.raises(CgateError, match=f"s1b0 cannot be exported: its gate is '{kind}', and"):
        export_checkpoint(folder, tmp_path / "bundle", M4)
    with pytest.raises(CgateError) as caught:
        export_checkpoint(folder, tmp_path / "bundle", M4)
    assert caught.value.code == EXIT_USAGE and "--gate controller" in caught.value.hint
    assert not (tmp_path / "bundle").exists()


def test_static_gates_leave_no_trace_of_themselves(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("static", tmp_path)
    plan, weights = lower(checkpoint, M4)
    # Gated are s1b0, s2b0 and s2b1; the second is shut, and only its shortcut remains.
    assert [unit.name for unit in plan.units] == [
        "stem",
        "s1b0.body",
        "s2b0.shortcut",
        "s2b1.body",
        "s3b0.shortcut",
        "s3b0.body",
        "head",
    ]
    assert all(unit.condition is None for unit in plan.units)
    assert not any("gate" in name or "s2b0.conv" in name for name in weights)
    # A threshold that all of them exceed brings the body back.
    plan, _ = lower(checkpoint, M4, threshold=0.2)
    assert "s2b0.body" in [unit.name for unit in plan.units]


def test_an_anchor_has_no_threshold_to_move(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("anchor", tmp_path)
    with pytest.raises(CgateError, match="no threshold to move"):
        lower(checkpoint, M4, threshold=0.5)


def test_an_anchor_is_the_sign_of_the_exact_sum(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("anchor", tmp_path)
    plan, weights = lower(checkpoint, M4)
    images = reference.to_input(random_images(checkpoint.network, 100, 1))
    unit = plan.gates[0]
    (stem, *_) = plan.units
    made = reference.run_unit(plan, weights, stem, {plan.input: images})
    made |= reference.run_unit(plan, weights, unit, made)
    mean = made["s1b0.gate.mean"].reshape(100, -1).astype(np.int64) + 128
    exact = mean @ weights["s1b0.gate.side.weights"].reshape(-1).astype(np.int64)
    assert unit.threshold == 0 and 0 < (exact > 0).mean() < 1
    assert plan.tensor(unit.output).scale == LOGIT_SCALE.scale
    np.testing.assert_array_equal(made[unit.output].reshape(-1), np.clip(exact, -128, 127))


@pytest.mark.parametrize("package", INTERPRETERS)
@pytest.mark.parametrize("cut", [-128, -7, 0, 126])
def test_tflite_compares_every_logit_exactly(package: str, cut: int) -> None:
    """GREATER rescales both sides, which makes it exact at some scales only: at the logit's."""
    if package == "tflite-runtime":
        pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    model = Model("greater")
    graph = model.subgraph("greater")
    logit, value = (
        graph.tensor(name, (1, 1, 1, 1), scale=LOGIT_SCALE.scale, data=data)
        for name, data in (("logit", None), ("cut", np.full((1, 1, 1, 1), cut, np.int8)))
    )
    decision = graph.tensor("open", (1, 1, 1, 1), np.bool_)
    graph.greater(logit, value, decision)
    graph.interface([logit], [decision])
    codes = np.arange(-128, 128, dtype=np.int8).reshape(256, 1, 1, 1)
    (found,) = GoldenUnit(model.pack(), package)([codes])
    np.testing.assert_array_equal(found, codes > cut)


@pytest.mark.parametrize("package", INTERPRETERS)
def test_mean_max_is_tflite_for_random_maps_and_scales(package: str) -> None:
    if package == "tflite-runtime":
        pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    rng = np.random.default_rng(0)
    network = small_network()
    for _ in range(25):
        height, width, channels = (int(n) for n in rng.integers(1, 12, 3))
        zero = int(rng.integers(-128, 128))
        scale = float(np.float32(rng.uniform(0.001, 0.1)))
        fine = float(np.float32(scale / rng.uniform(1, 40)))
        x = Tensor("x", (height, width, channels), scale, zero, None)
        y = Tensor("y", (1, 1, 2 * channels), scale, zero, None)
        multiplier, shift = mean_multiplier(scale / fine, height * width)
        op = MeanMax("x", "y", fine, multiplier, shift, 0, "mean_max_s8__ref", "")
        unit = Unit(0, "u", "gate", None, None, ("x",), "y", 0, (op,))
        plan = Plan("p", "t", "", "", 0.45, "x", "y", 0, 0, (), network, (x, y), (unit,))
        (content,) = emit_tflite(plan, {}).values()
        images = rng.integers(-128, 128, (6, height, width, channels)).astype(np.int8)
        (found,) = GoldenUnit(content, package)([images])
        np.testing.assert_array_equal(found, reference.mean_max(images, op, x))

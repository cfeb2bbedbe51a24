"""Early exits in integers: the rule, the plan, TFLite's kernels, the C, against plain loops."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from c_programs import compile_host, run_host
from cgate.core.errors import CgateError
from cgate.core.files import read_json, write_json
from cgate.core.network import Network
from cgate.core.plan import Plan, Unit, Weights, load_bundle
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.export.emit_c import emit_c
from cgate.export.emit_tflite import emit_tflite, unit_file
from cgate.export.golden import INTERPRETERS, GoldenUnit
from cgate.export.lower import lower
from cgate.export.quantize import NEVER, Scale, exit_margin
from synthetic import random_images, small_network, write_checkpoint
from tiny import needs_host

Int8 = NDArray[np.int8]
M4 = find_target("cortex-m4")
NETWORK = small_network(exits=("s1b0", "s2b1"))
IMAGES = reference.to_input(random_images(NETWORK, 70, 9))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), NETWORK, seed=3).folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    folder = checkpoint.parent / f"{checkpoint.name}-bundle"
    export_checkpoint(checkpoint, folder, M4)
    return folder


@pytest.fixture(scope="module")
def lowered(bundle: Path) -> tuple[Plan, Weights]:
    loaded = load_bundle(bundle)
    return loaded.plan, loaded.weights


def plain(plan: Plan, weights: Weights, image: Int8, gates: str) -> tuple[list[int], ...]:
    """One image by the definition: (logits, decisions, which units ran)."""
    values: dict[str, Int8] = {plan.input: image[None]}
    opened: dict[str, bool] = {}
    decisions = [0] * len(plan.gates)
    ran = [0] * len(plan.units)
    for unit in plan.units:
        if unit.condition is not None and not opened[unit.condition]:
            values[unit.output] = values[unit.ops[-1].stream]  # type: ignore[union-attr]
            continue
        ran[unit.index] = 1
        values |= reference.run_unit(plan, weights, unit, values)
        if unit.role not in ("gate", "exit"):
            continue
        codes = sorted(int(q) for q in values[unit.output].reshape(-1))
        if unit.role == "gate":
            said = codes[0] > unit.threshold
        else:
            said = codes[-1] - codes[-2] <= unit.threshold
        decisions[plan.gates.index(unit)] = int(said)
        opened[unit.name] = {"learned": said, "open": True, "shut": False}[gates]
        if unit.role == "exit" and not opened[unit.name]:
            break
    return values[unit.output].reshape(-1).tolist(), decisions, ran


@pytest.mark.parametrize("gates", reference.FORCE)
def test_the_reference_does_what_the_specification_says(
    lowered: tuple[Plan, Weights], gates: str
) -> None:
    plan, weights = lowered
    result = reference.run(plan, weights, IMAGES, gates)
    for i, image in enumerate(IMAGES):
        logits, decisions, ran = plain(plan, weights, image, gates)
        assert result.logits[i].tolist() == logits
        assert result.decisions[i].astype(int).tolist() == decisions
        assert result.ran[i].astype(int).tolist() == ran
    places = [unit.index for unit in (*plan.exits, plan.units[-1])]
    last = len(plan.units) - 1 - result.ran[:, ::-1].argmax(axis=1)
    answered = [int((last == place).sum()) for place in places]
    assert sum(answered) == len(IMAGES)
    assert {
        "learned": all(answered),  # the test would prove little otherwise
        "open": answered[2] == len(IMAGES),
        "shut": answered[0] == len(IMAGES),
    }[gates]


@pytest.mark.parametrize("gates", ["learned", "open", "shut"])
def test_the_plan_tells_what_ran_from_the_decisions(
    lowered: tuple[Plan, Weights], gates: str
) -> None:
    plan, weights = lowered
    result = reference.run(plan, weights, IMAGES, gates)
    opened = {"open": np.ones_like(result.decisions), "shut": np.zeros_like(result.decisions)}
    np.testing.assert_array_equal(plan.ran(opened.get(gates, result.decisions)), result.ran)


@pytest.mark.parametrize("package", INTERPRETERS)
@pytest.mark.parametrize("gates", ["learned", "open"])
def test_every_unit_and_decision_equals_tflite(
    lowered: tuple[Plan, Weights], package: str, gates: str
) -> None:
    plan, weights = lowered
    if package == "tflite-runtime":
        pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    files = emit_tflite(plan, weights)
    units = {unit.name: GoldenUnit(files[unit_file(unit)], package) for unit in plan.units}

    def run(unit: Unit, inputs: Mapping[str, Int8]) -> tuple[Int8, NDArray[np.bool_] | None]:
        output, *decision = units[unit.name]([inputs[name] for name in unit.inputs])
        return output, decision[0].reshape(-1) if decision else None

    images = IMAGES[:40]
    found = list(reference.walk(plan, images, gates, run))
    expected = list(reference.trace(plan, weights, images, gates))
    assert [step.unit for step in found] == [step.unit for step in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.output, other.output, err_msg=one.unit.name)
        assert (one.decision is None) == (other.decision is None)
        if one.decision is not None and other.decision is not None:
            np.testing.assert_array_equal(one.decision, other.decision, err_msg=one.unit.name)


def logit_vectors(count: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    drawn = [rng.integers(-128, 128, rng.integers(2, 30)).tolist() for _ in range(count)]
    extremes = [[-128, 127], [127, -128], [5, 5], [-128, -128, -128], [127, 0, 127], [0, 1, 2]]
    return [*extremes, *drawn]


def test_margins_in_c_and_numpy_are_those_of_sorted_lists() -> None:
    needs_host()
    vectors = logit_vectors(2000)
    expected = [sorted(vector)[-1] - sorted(vector)[-2] for vector in vectors]
    for vector, margin in zip(vectors, expected, strict=True):
        assert reference.margin(np.array([vector], np.int8)).tolist() == [margin]
    program = compile_host("margin", [Path(__file__).parents[1] / "firmware" / "margin.c"])
    data = b"".join(bytes([len(v)]) + np.array(v, np.int8).tobytes() for v in vectors)
    assert list(run_host(program, data)) == expected


@given(
    st.integers(0, 255),
    st.floats(0, 1e6),
    st.floats(2.0**-20, 2.0**10, width=32),
)
def test_the_integer_margin_decides_as_the_real_one(codes: int, margin: float, step: float) -> None:
    threshold = exit_margin(margin, Scale(step, 0))
    assert 0 <= threshold <= NEVER
    real, wanted = codes * Fraction(step), Fraction(margin)
    # margin / step is rounded to a float64, which can move a margin that is a whole number of
    # steps to either side.
    assume(abs(real - wanted) > wanted / 2**50)
    assert (codes > threshold) == (real > wanted)


def test_no_margin_is_never_exceeded() -> None:
    assert exit_margin(None, Scale(0.1, 3)) == NEVER == 127 - -128
    assert exit_margin(1e30, Scale(1e-6, 0)) == NEVER
    assert exit_margin(0.0, Scale(0.1, 0)) == 0


def test_all_answers_have_one_scale_and_one_place(
    lowered: tuple[Plan, Weights], checkpoint: Path
) -> None:
    plan, _ = lowered
    output = plan.tensor(plan.output)
    ranges = read_json(checkpoint / "ranges.json", "ranges")["tensors"]
    wide = [ranges[name]["open"] for name in ("s1b0.exit.logits", "s2b1.exit.logits", plan.output)]
    low = (-128 - output.zero_point) * output.scale
    high = (127 - output.zero_point) * output.scale
    assert low - output.scale <= min(each["low"] for each in wide)
    assert high + output.scale >= max(each["high"] for each in wide)
    for unit in plan.exits:
        tensor = plan.tensor(unit.output)
        assert (tensor.scale, tensor.zero_point) == (output.scale, output.zero_point)
        assert tensor.offset is output.offset is None
        assert tensor.shape == output.shape


def test_a_network_without_exits_needs_the_same_memory(tmp_path: Path) -> None:
    arenas = []
    for name, network in (("with", NETWORK), ("without", small_network())):
        checkpoint = write_checkpoint(tmp_path / name, network)
        arenas.append(lower(checkpoint, M4)[0].arena_size)
    assert arenas[0] == arenas[1]


def test_the_code_returns_at_an_exit(lowered: tuple[Plan, Weights]) -> None:
    plan, weights = lowered
    text = emit_c(plan, weights, "00" * 32)["model.c"]
    assert text.count("return CG_OK;") == 1 + len(plan.exits)
    assert text.count("CG_MARK_END(CG_MARK_INFERENCE);") == 1 + len(plan.exits)
    for unit in plan.exits:
        name = "open_" + unit.name.replace(".", "_")
        leaving = (
            f"    if (!{name}) {{\n        CG_MARK_END(CG_MARK_INFERENCE);\n"
            "        return CG_OK;\n    }\n"
        )
        assert f"int {name} = cg_margin(output, 10) <= {unit.threshold};" in text
        assert text.index(f"CG_MARK_END({unit.index});") < text.index(leaving)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ops": []}, "it has no ops"),
        ({"output": "stem"}, "it does not compute its output stem"),
        ({"role": "body"}, "gates and exits, and no others, decide"),
    ],
)
def test_a_plan_with_a_strange_exit_is_refused(
    bundle: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    plan = read_json(bundle / "plan.json", "plan")
    unit = next(each for each in plan["units"] if each["role"] == "exit")
    unit |= change
    write_json(tmp_path / "plan.json", plan)
    (tmp_path / "weights.npz").write_bytes((bundle / "weights.npz").read_bytes())
    with pytest.raises(CgateError, match=message):
        load_bundle(tmp_path)


def test_logits_of_an_exit_in_another_form_are_refused(bundle: Path, tmp_path: Path) -> None:
    plan = read_json(bundle / "plan.json", "plan")
    output = next(each["output"] for each in plan["units"] if each["role"] == "exit")
    next(each for each in plan["tensors"] if each["name"] == output)["scale"] *= 2
    write_json(tmp_path / "plan.json", plan)
    (tmp_path / "weights.npz").write_bytes((bundle / "weights.npz").read_bytes())
    with pytest.raises(CgateError, match="logits of an exit must be like the network's output"):
        load_bundle(tmp_path)


def test_networks_with_misplaced_exits_cannot_be_read() -> None:
    from cgate.core.network import network_from_json, network_macs

    def read(exits: object) -> Network:
        value = {**NETWORK.to_json(), "exits": exits}
        value["input_shape"] = list(NETWORK.input_shape)
        value["blocks"] = [{**each, "body": list(each["body"])} for each in value["blocks"]]
        return network_from_json(value)

    good = [{"block": "s1b0", "margin": 1}, {"block": "s2b1", "margin": None}]
    network = read(good)
    assert [each.margin for each in network.exits] == [1.0, None]
    macs = network_macs(network)
    assert macs.exits == {"s1b0": 8 * 8 * 8 + 8 * 10, "s2b1": 4 * 4 * 16 + 16 * 10}
    assert macs.dense == network_macs(small_network()).dense
    for exits, message in (
        (3, "'exits' should be list"),
        ([{"block": "s1b0"}], r"exits\[0\]: 'margin' is missing"),
        ([{"block": "s1b0", "margin": -1}], "'margin' is -1"),
        ([{"block": "s1b0", "margin": True}], "'margin' is True"),
        ([{"block": "s1b0", "margin": float("nan")}], "'margin' is nan"),
        ([{"block": "s9", "margin": 1.0}], "which is no block"),
        (good[::-1], "not in the order"),
        (good[:1] * 2, "not in the order"),
        ([{"block": "s3b0", "margin": 1.0}], "cannot save anything"),
    ):
        with pytest.raises(CgateError, match=message):
            read(exits)

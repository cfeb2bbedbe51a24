import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise

import pytest

from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.files import json_text
from cgate.core.gates import GATE_KINDS, Gate
from cgate.core.network import network_macs
from cgate.train.recipes import ABLATIONS, RECIPES, Recipe, find_recipe
from cgate.train.schedules import SCHEDULES


def test_names_are_their_keys() -> None:
    assert {"demo", "demo-cifar10", "aggressive", "balanced", "conservative"} <= RECIPES.keys()
    assert all(find_recipe(name).name == name for name in RECIPES)


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(CgateError) as caught:
        find_recipe("balance")
    assert "--recipe balanced" in caught.value.hint
    assert all(name in caught.value.message for name in RECIPES)


def test_the_dense_recipe_differs_in_gate_and_name_only() -> None:
    recipe = find_recipe("demo")
    dense = recipe.dense()
    differ = [
        field.name
        for field in fields(Recipe)
        if getattr(recipe, field.name) != getattr(dense, field.name)
    ]
    assert differ == ["name", "gate"] and dense.gate is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", "imagenet"),
        ("dtype", "float16"),
        ("epochs", 0),
        ("batch", 1),
        ("tau", 0.0),
        ("tau", 1.5),
        ("warmup", -0.1),
        ("warmup", 1.0),
        ("floor", 0.99),
        ("bandpass", -1.0),
        ("temperature_schedule", "step"),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("seed", -1),
        ("limit", 0),
    ],
)
def test_bad_values_are_named(key: str, value: object) -> None:
    with pytest.raises(CgateError, match=f"{key} is .*, allowed is"):
        replace(find_recipe("demo"), **{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_a_recipe_can_have_any_kind_of_gate(kind: str) -> None:
    recipe = replace(find_recipe("balanced"), gate=Gate(hidden=7)).with_gate(kind)
    assert recipe.name == f"balanced-{kind}" and recipe.gate == Gate(kind, 7)


def test_gate_none_is_the_dense_recipe() -> None:
    assert find_recipe("balanced").with_gate("none") == find_recipe("balanced").dense()
    with pytest.raises(CgateError, match=r"unknown gate 'cri'; known are .*cir-predicted.*none"):
        find_recipe("balanced").with_gate("cri")


@pytest.mark.parametrize("tau", [0.6, 0.7, 0.95])
def test_random_gates_open_at_the_rate_that_meets_tau(tau: float) -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    recipe = replace(find_recipe("demo"), tau=tau).with_gate("random")
    network = recipe.network(load_dataset("digits"))
    macs = network_macs(network)
    saved = sum(
        macs.bodies[block.name] * (1 - block.gate.rate)
        for block in network.gated
        if block.gate is not None and block.gate.rate is not None
    )
    assert 1 - saved / macs.dense == pytest.approx(tau)
    given = replace(recipe, gate=Gate("random", rate=0.25)).network(load_dataset("digits"))
    assert {block.gate for block in given.gated} == {Gate("random", rate=0.25)}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing_and_the_name(name: str) -> None:
    recipe = find_recipe("balanced").with_gate("cir-predicted")
    ablated = recipe.ablated(name)
    differ = [
        field.name
        for field in fields(Recipe)
        if getattr(recipe, field.name) != getattr(ablated, field.name)
    ]
    assert len(differ) == 2 and differ[0] == "name" and ablated.name.endswith(f"-{name}")
    with pytest.raises(CgateError, match=r"do without CIR|changes nothing"):
        ablated.ablated(name)


def test_there_must_be_something_to_take_away() -> None:
    for recipe, name, message in (
        (find_recipe("balanced"), "no-cir", "controller gates, which do without CIR"),
        (find_recipe("balanced"), "felt-cir", "controller gates, which predict no CIR"),
        (find_recipe("demo-cifar10"), "no-consistency", "changes nothing"),
        (find_recipe("balanced").dense(), "no-noise", "has no gates"),
        (find_recipe("balanced"), "no-gates", "known are no-cir"),
    ):
        with pytest.raises(CgateError, match=message):
            recipe.ablated(name)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_from_first_to_last(name: str) -> None:
    values = [SCHEDULES[name](2.0, 0.5, step / 20) for step in range(21)]
    assert values[0] == pytest.approx(2.0)
    assert values[-1] == pytest.approx(2.0 if name == "constant" else 0.5)
    falls = [left - right for left, right in pairwise(values)]
    assert all(fall >= 0 for fall in falls) and (name == "constant") == (max(falls) == 0)


def test_a_recipe_is_plain_json() -> None:
    text = json_text(find_recipe("demo").to_json())
    assert all(f'"{field.name}"' in text for field in fields(Recipe))


def test_recipes_can_be_listed_without_torch() -> None:
    code = "import sys, cgate.train, cgate.train.recipes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_the_penalty_counts_macs_or_cycles_of_a_target() -> None:
    recipe = find_recipe("demo")
    network = recipe.network(load_dataset("digits"))
    assert recipe.costs(network) == network_macs(network)
    cycles = replace(recipe, cost="cortex-m4").costs(network)
    assert cycles.bodies.keys() == network_macs(network).bodies.keys()
    assert cycles == replace(recipe, cost="mps2-an386").costs(network)
    with pytest.raises(CgateError, match="unknown target 'cortex-m5'"):
        replace(recipe, cost="cortex-m5")

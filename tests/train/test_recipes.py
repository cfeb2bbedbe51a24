import subprocess
import sys
from dataclasses import fields, replace

import pytest

from cgate.core.errors import CgateError
from cgate.core.files import json_text
from cgate.train.recipes import RECIPES, Recipe, find_recipe


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
        ("warmup", 0.0),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("seed", -1),
        ("limit", 0),
    ],
)
def test_bad_values_are_named(key: str, value: object) -> None:
    with pytest.raises(CgateError, match=f"{key} is .*, allowed is"):
        replace(find_recipe("demo"), **{key: value})  # type: ignore[arg-type]


def test_a_recipe_is_plain_json() -> None:
    text = json_text(find_recipe("demo").to_json())
    assert all(f'"{field.name}"' in text for field in fields(Recipe))


def test_recipes_can_be_listed_without_torch() -> None:
    code = "import sys, cgate.train, cgate.train.recipes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})

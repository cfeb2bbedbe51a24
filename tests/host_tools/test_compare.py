"""`cgate compare`: weights, verdicts and figures, on made-up records and on a real run."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.core.errors import CgateError
from cgate.core.plan import load_bundle
from cgate.core.progress import Silent
from cgate.host_tools.compare import (
    Side,
    compare,
    image_weights,
    load_side,
    misled,
    paired,
    read_prior,
    verdict,
)
from cgate.host_tools.evaluate import evaluate
from cgate.host_tools.inputs import load_inputs


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a run of six images under QEMU, and three with all gates open."""
    folder = tmp_path_factory.mktemp("compare") / "gated"
    shutil.copytree(digits_bundle, folder)
    plan = load_bundle(folder).plan
    evaluate(folder, load_inputs(plan, limit=6), jobs=1, progress=Silent())
    evaluate(folder, load_inputs(plan, limit=3), gates="open", jobs=1, progress=Silent())
    return folder


def made(side: Side, name: str, right: Sequence[int], cost: Sequence[int]) -> Side:
    """A side with these answers and costs on as many images of class 0."""
    count = len(right)
    labels = np.zeros(count, np.int64)
    record = replace(
        side.record,
        labels=labels,
        classes=1 - np.array(right, np.int64),
        cycles=np.array(cost, np.int64),
    )
    return replace(side, name=name, record=record)


@pytest.mark.parametrize(
    ("right", "cost", "state"),
    [
        (0.90, 80, "wins"),  # cheaper, accuracy the same
        (0.98, 100, "wins"),
        (0.98, 80, "wins"),
        (0.90, 100, "level"),
        (0.90, 120, "loses"),
        (0.80, 100, "loses"),
        (0.80, 80, "trades"),
        (0.98, 120, "trades"),
    ],
)
def test_verdicts(bundle: Path, right: float, cost: int, state: str) -> None:
    side, count = load_side(bundle), 1000
    b = made(side, "b", [1] * 900 + [0] * 100, [100] * count)
    a = made(side, "a", [1] * int(right * count) + [0] * round((1 - right) * count), [cost] * count)
    weights = image_weights(a.record.labels, {})
    value = verdict(a, b, weights)
    assert value["state"] == state, value["text"]
    assert value["cost_ratio"] == pytest.approx(cost / 100)
    opposite = {"wins": "loses", "loses": "wins"}
    assert verdict(b, a, weights)["state"] == opposite.get(state, state)


def test_the_error_of_a_difference_is_that_of_pairs(bundle: Path) -> None:
    generator = np.random.default_rng(1)
    a, b = (generator.integers(0, 2, 500) for _ in range(2))
    side = load_side(bundle)
    left, right = (made(side, name, list(bits), [1] * 500) for name, bits in (("a", a), ("b", b)))
    mean, error = paired(left, right, image_weights(left.record.labels, {}))
    assert mean == pytest.approx((a - b).mean())
    assert error == pytest.approx((a - b).std() / np.sqrt(500))


@given(
    labels=st.lists(st.integers(0, 3), min_size=8).filter(lambda x: set(x) == {0, 1, 2, 3}),
    share=st.floats(0, 1),
)
def test_a_prior_gives_its_class_its_share(labels: list[int], share: float) -> None:
    array = np.array(labels, np.int64)
    weights = image_weights(array, {2: share})
    assert weights.sum() == pytest.approx(1)
    assert weights[array == 2].sum() == pytest.approx(share)
    rest = weights[array != 2]
    assert np.allclose(rest, rest[0])


def test_impossible_priors_are_refused() -> None:
    labels = np.array([0, 1, 1], np.int64)
    for prior, message in (({0: 0.7, 1: 0.7}, "add up"), ({5: 0.1}, "no image")):
        with pytest.raises(CgateError, match=message):
            image_weights(labels, prior)
    for text, message in (("dog=0.1", "no class 'dog'"), ("cat=2", "no share"), ("cat", "share")):
        with pytest.raises(CgateError, match=message):
            read_prior([text], ["cat"])


def test_a_bundle_against_itself_is_level(bundle: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(bundle, tmp_path / "twin"))
    side = load_side(bundle)
    value = compare([side, load_side(twin)], {})
    assert [each["state"] for each in value["verdicts"]] == ["level"]
    column = value["columns"][0]
    assert column["cost"]["unit"] == "cycles"
    assert column["cycles"] == side.record.cycles.mean() if side.record.cycles is not None else 0
    assert column["paper_macs"] < column["executed_macs"] <= column["dense_macs"] * 1.01
    assert column["cost"]["all_open"] >= column["cost"]["max"]
    shares = misled(side, image_weights(side.record.labels, {}))
    for key in ("predicted", "measured"):
        assert sum(row[key] for row in shares) == pytest.approx(1)


def test_other_images_do_not_compare(bundle: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(bundle, tmp_path / "twin"))
    with pytest.raises(CgateError, match="same images"):
        compare([load_side(bundle), load_side(twin, "test-3-open")], {})


def test_a_bundle_without_a_counted_run_is_refused(digits_bundle: Path) -> None:
    with pytest.raises(CgateError, match="no run"):
        load_side(digits_bundle)

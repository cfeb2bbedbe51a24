"""The sweep, with real trials of a tiny recipe."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')
pytest.importorskip("optuna", reason='pip install "cgate[train]"')

import optuna

from cgate.core.checkpoint import load_checkpoint
from cgate.core.errors import CgateError
from cgate.core.progress import Silent
from cgate.train.recipes import Recipe
from cgate.train.sweep import Axis, Sweep, choose, finish, parse_axis, run_sweep


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("lr=0.1:0.8:log", Axis("lr", 0.1, 0.8, True)),
        ("tau=0.5:0.9", Axis("tau", 0.5, 0.9)),
        ("epochs=1:4", Axis("epochs", 1, 4)),
        ("tau=0.5,0.7", Axis("tau", choices=(0.5, 0.7))),
        ("gate=controller,none", Axis("gate", choices=("controller", "none"))),
        ("flip=true,false", Axis("flip", choices=(True, False))),
        ("limit=100", Axis("limit", choices=(100,))),
    ],
)
def test_axes_are_read(text: str, axis: Axis) -> None:
    assert parse_axis(text) == axis


@pytest.mark.parametrize(
    "text", ["lr", "lr=", "lr=0.8:0.1", "lr=0:1:log", "lr=1:2:3", "lr=x", "gate=a:b", "epochs=1.5"]
)
def test_other_axes_are_refused(text: str) -> None:
    with pytest.raises(CgateError, match="cannot search"):
        parse_axis(text)


def test_an_unknown_key_lists_the_known() -> None:
    with pytest.raises(CgateError, match=r"no 'learning' to search; it has data, model, epochs"):
        parse_axis("learning=1,2")


def one_epoch(tiny: Recipe) -> Recipe:
    return replace(tiny, epochs=1, limit=100)


def test_a_sweep_over_choices_tries_each_once_and_reads_no_test_image(
    tiny: Recipe, tmp_path: Path
) -> None:
    recipe = one_epoch(tiny)
    sweep = Sweep((recipe, replace(recipe, name="other", lr=0.05)), seeds=2)
    rows = run_sweep(sweep, tmp_path, 100, progress=Silent())
    assert sorted(row["recipe"] for row in rows) == ["other", "tiny"]
    assert not list(tmp_path.rglob("card.json"))
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["executed_share"]))
    assert [row["trial"] for row in rows if row["chosen"]] == [best["trial"]]
    with (tmp_path / "results.csv").open() as stream:
        assert [row["validation_accuracy"] for row in csv.DictReader(stream)] == [
            str(row["validation_accuracy"]) for row in rows
        ]
    logs = [tmp_path / best["folder"] / f"seed-{seed}" / "log.csv" for seed in (0, 1)]
    found = [float(log.read_text().splitlines()[-1].split(",")[4]) for log in logs]
    assert best["validation_accuracy"] == pytest.approx(sum(found) / 2, abs=1e-6)
    cards = finish(rows, tmp_path, progress=Silent())
    assert [card["seed"] for card in cards] == [0, 1]
    assert {path.parent for path in tmp_path.rglob("card.json")} == {log.parent for log in logs}
    load_checkpoint(logs[0].parent)
    # The same sweep again has nothing left to do.
    assert run_sweep(sweep, tmp_path, 100, progress=Silent()) == rows


def test_workers_share_a_storage_and_a_stopped_trial_goes_on(tiny: Recipe, tmp_path: Path) -> None:
    sweep = Sweep((one_epoch(tiny),), (Axis("lr", 0.05, 0.2, True),), seeds=1)
    journal = str(tmp_path / "journal.log")

    class Stop(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path / "runs", 1, storage=journal, progress=Stop())
    rows = run_sweep(sweep, tmp_path / "runs", 2, storage=journal, progress=Silent())
    assert [row["state"] for row in rows] == ["fail", "complete", "complete"]
    assert rows[1]["folder"] == rows[0]["folder"] and rows[1]["lr"] == rows[0]["lr"]
    with pytest.raises(CgateError, match="holds another sweep"):
        run_sweep(replace(sweep, seeds=2), tmp_path, 3, storage=journal, progress=Silent())


def test_a_trial_that_diverges_ends_and_the_sweep_goes_on(tiny: Recipe, tmp_path: Path) -> None:
    sweep = Sweep((one_epoch(tiny),), (Axis("lr", choices=(1e30, 0.1)),))
    rows = run_sweep(sweep, tmp_path, 10, progress=Silent())
    states = {row["lr"]: row["state"] for row in rows}
    assert states == {1e30: "pruned", 0.1: "complete"}


def test_the_dearest_trial_is_not_chosen_beyond_the_share() -> None:
    def trial(accuracy: float, share: float) -> optuna.trial.FrozenTrial:
        return optuna.trial.create_trial(values=[accuracy, share])

    trials = [trial(0.9, 1.0), trial(0.8, 0.7), trial(0.8, 0.6), trial(0.7, 0.5)]
    assert choose(trials, None) is trials[0]
    assert choose(trials, 0.75) is trials[2]
    assert choose(trials, 0.1) is None


def test_missing_data_stops_the_sweep(tiny: Recipe, tmp_path: Path) -> None:
    sweep = Sweep((replace(tiny, data="svhn"),))
    with pytest.raises(CgateError, match="svhn was not found"):
        run_sweep(sweep, tmp_path / "out", 1, data_dir=tmp_path, progress=Silent())

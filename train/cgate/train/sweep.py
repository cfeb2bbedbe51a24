"""A search over recipes: each trial trains some seeds, and validation images alone compare them.

Optuna proposes the trials and keeps them in a storage that workers on several machines share.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GridSampler, TPESampler
from optuna.storages import (
    BaseStorage,
    JournalStorage,
    RDBStorage,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import read_json, write_text
from cgate.core.progress import Progress, Silent
from cgate.train.loop import train, train_epochs
from cgate.train.recipes import Recipe, recipe_from_json
from cgate.train.record import RUN

RESULTS = "results.csv"
STUDY = "cgate"

Number = int | float


@dataclass(frozen=True)
class Axis:
    """One value of a recipe that is searched: a range, or choices.

    Args:
        key: field of `Recipe`, or "gate" for its kind ("none" for no gates).
        low, high: ends of a range of numbers.
        log: search the range by factors, not by differences.
        choices: all values that are tried; empty for a range.
    """

    key: str
    low: Number = 0
    high: Number = 0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Any:
        """The value that a trial tries."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


def parse_axis(text: str) -> Axis:
    """Read "lr=0.1:0.8:log", "epochs=10:40" or "gate=controller,anchor".

    Raises:
        CgateError: it is none of these forms, or names no field of a recipe.
    """
    wrong = CgateError(
        f"cannot search {text!r}", "write lr=0.1:0.8:log, epochs=10:40 or gate=controller,anchor"
    )
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise wrong
    known = [field.name for field in fields(Recipe) if field.name not in ("name", "exits", "seed")]
    if key not in known:
        raise CgateError(f"a recipe has no {key!r} to search; it has {', '.join(known)}")
    kind = next(field.type for field in fields(Recipe) if field.name == key)

    def value(word: str) -> Any:
        if kind == "bool" and word in ("true", "false"):
            return word == "true"
        try:
            return {"int": int, "int | None": int, "float": float}.get(str(kind), str)(word)
        except ValueError as error:
            raise wrong from error

    if ":" not in values:
        return Axis(key, choices=tuple(value(word) for word in values.split(",")))
    low, high, *rest = values.split(":")
    ends = value(low), value(high)
    if rest not in ([], ["log"]) or not all(type(end) in (int, float) for end in ends):
        raise wrong
    if not ends[0] < ends[1] or (rest and ends[0] <= 0):
        raise wrong
    return Axis(key, *ends, log=bool(rest))


@dataclass(frozen=True)
class Sweep:
    """What is searched.

    Args:
        recipes: tried each, with what `axes` change.
        axes: values searched, besides the recipes.
        seeds: runs per trial, with the seeds 0, 1, ...; a trial counts with their mean.
        max_share: the chosen trial executes at most this share of the dense MACs on validation
            images; None for any.
    """

    recipes: tuple[Recipe, ...]
    axes: tuple[Axis, ...] = ()
    seeds: int = 1
    max_share: float | None = None

    @property
    def grid(self) -> dict[str, list[Any]] | None:
        """All choices by key, or None if an axis is a range."""
        if not all(axis.choices for axis in self.axes):
            return None
        choices = {axis.key: list(axis.choices) for axis in self.axes}
        return {"recipe": [recipe.name for recipe in self.recipes], **choices}

    def recipe(self, trial: optuna.Trial) -> Recipe:
        """The recipe of a trial, with seed 0.

        Raises:
            CgateError: a value is not allowed.
        """
        named = {recipe.name: recipe for recipe in self.recipes}
        chosen = named[trial.suggest_categorical("recipe", list(named))]
        changes = {axis.key: axis.suggest(trial) for axis in self.axes}
        kind = changes.pop("gate", None)
        if kind is not None:
            chosen = chosen.with_gate(kind)
        return replace(chosen, **changes, seed=0)

    def design(self) -> str:
        """What all workers of a sweep must agree on, as text."""
        recipes = [recipe.to_json() for recipe in self.recipes]
        axes = [[axis.key, axis.low, axis.high, axis.log, axis.choices] for axis in self.axes]
        return json.dumps({"recipes": recipes, "axes": axes, "seeds": self.seeds}, sort_keys=True)


def _storage(address: str) -> BaseStorage:
    """A data base by its URL, or a journal file, which may lie on a network drive, by its path."""
    if "://" not in address:
        return JournalStorage(JournalFileBackend(address))
    return RDBStorage(address)


def _queue_stopped(study: optuna.Study) -> None:
    """Queue the trials that were stopped; whoever takes one goes on in the same folder."""
    tries: dict[str, list[FrozenTrial]] = {}
    for trial in study.trials:
        tries.setdefault(_folder(trial), []).append(trial)
    for folder, trials in tries.items():
        if all(trial.state == TrialState.FAIL for trial in trials):
            study.enqueue_trial(trials[0].params, user_attrs={"folder": folder})


def _folder(trial: FrozenTrial | optuna.Trial) -> str:
    """Name of the folder in which a trial trains."""
    name: str = trial.user_attrs.get("folder", f"trial-{trial.number:04}")
    return name


def choose(trials: Sequence[FrozenTrial], max_share: float | None) -> FrozenTrial | None:
    """The complete trial with the best mean validation accuracy of those cheap enough."""
    fitting = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and (max_share is None or trial.values[1] <= max_share)
    ]
    return max(fitting, key=lambda trial: (trial.values[0], -trial.values[1]), default=None)


def _rows(study: optuna.Study, sweep: Sweep) -> list[dict[str, Any]]:
    trials = study.trials
    chosen = choose(trials, sweep.max_share)
    front = {trial.number for trial in study.best_trials}
    rows = []
    for trial in trials:
        accuracies = trial.user_attrs.get("validation_accuracies", [])
        done = trial.state == TrialState.COMPLETE
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                **{key: trial.params.get(key) for key in _keys(sweep)},
                "seeds": len(accuracies),
                "validation_accuracy": round(trial.values[0], 6) if done else None,
                "validation_sd": round(statistics.stdev(accuracies), 6)
                if len(accuracies) > 1
                else None,
                "executed_share": round(trial.values[1], 6) if done else None,
                "front": int(trial.number in front),
                "chosen": int(chosen is not None and trial.number == chosen.number),
                "folder": _folder(trial),
            }
        )
    return rows


def _keys(sweep: Sweep) -> list[str]:
    return ["recipe", *(axis.key for axis in sweep.axes)]


def _write_results(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    lines = [",".join(rows[0])] if rows else []
    lines += [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    write_text(out / RESULTS, "\n".join(lines) + "\n")


def run_sweep(
    sweep: Sweep,
    out: Path,
    trials: int,
    *,
    storage: str | None = None,
    data_dir: Path | None = None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Run trials until the sweep has `trials` of them, all workers together.

    Every trial maximises the mean validation accuracy over its seeds and minimises the mean
    executed share. The test images are not read: `finish` does that for the chosen trial. Sweeps
    over choices alone try every combination once and then end. A trial that was stopped with
    Ctrl-C goes on when the sweep does; that of a worker that died is replaced by another one.

    Args:
        out: folder for the runs and results.csv.
        storage: URL of a data base or path of a journal file; the same for all workers. Default:
            an SQLite file in `out`, for workers on one machine.

    Returns:
        The rows of results.csv.

    Raises:
        CgateError: the storage holds another sweep, or cannot be used; the data is missing.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    address = storage or f"sqlite:///{out / 'study.db'}"
    try:
        study = optuna.create_study(
            storage=_storage(address),
            study_name=STUDY,
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
    # Each data base has errors of its own.
    except Exception as error:
        raise CgateError(
            f"cannot use the storage {address}: {error}",
            "--storage sqlite:///sweep.db is a file here",
        ) from error
    design = study.user_attrs.get("design")
    if design is None:
        study.set_user_attr("design", sweep.design())
    elif design != sweep.design():
        raise CgateError(
            f"{address} holds another sweep: recipes, values or seeds differ",
            "choose another --out or --storage, or give the options of that sweep",
        )
    # Workers that come later start from another seed; one alone gives the same trials each time.
    study.sampler = _sampler(sweep, len(study.trials))
    _queue_stopped(study)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        recipe = sweep.recipe(trial)
        folder = out / _folder(trial)
        progress.message(f"trial {trial.number}: {recipe.name} {trial.params}")
        rows = []
        for number in range(sweep.seeds):
            try:
                row = train_epochs(
                    replace(recipe, seed=number),
                    folder / f"seed-{number}",
                    data_dir=data_dir,
                    progress=Silent(),
                )
            except CgateError as error:
                if error.code != EXIT_CHECK_FAILED:
                    raise
                progress.message(f"trial {trial.number}: {error.message}")
                raise optuna.TrialPruned(error.message) from error
            rows.append(row)
            progress.advance(1, f"trial {trial.number}, seed {number}")
        accuracies = [row["validation_accuracy"] for row in rows]
        trial.set_user_attr("validation_accuracies", accuracies)
        return (
            statistics.fmean(accuracies),
            statistics.fmean(row["executed_share"] for row in rows),
        )

    def report(study: optuna.Study, trial: FrozenTrial) -> None:
        _write_results(_rows(study, sweep), out)
        if trial.values is not None:
            progress.message(
                f"trial {trial.number}: validation {trial.values[0]:.2%}, "
                f"executed {trial.values[1]:.1%}"
            )
        if _done(study) >= trials:
            study.stop()

    if sweep.grid is not None:
        trials = min(trials, math.prod(len(choices) for choices in sweep.grid.values()))
    progress.start("sweep", max(0, trials - _done(study)) * sweep.seeds)
    if _done(study) < trials:
        study.optimize(objective, callbacks=[report])
    rows = _rows(study, sweep)
    _write_results(rows, out)
    return rows


def _done(study: optuna.Study) -> int:
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def _sampler(sweep: Sweep, seed: int) -> BaseSampler:
    if sweep.grid is not None:
        return GridSampler(sweep.grid, seed=seed)
    return TPESampler(seed=seed, constant_liar=True)


def finish(
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    data_dir: Path | None = None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Finish the runs of the chosen trial: ranges, cards, and the one look at the test images.

    Args:
        rows: from `run_sweep`.

    Returns:
        A card per seed.

    Raises:
        CgateError: no trial was chosen, or its runs are on another machine.
    """
    chosen = next((row for row in rows if row["chosen"]), None)
    if chosen is None:
        raise CgateError(
            "no trial can be chosen: none is complete, or none executes little enough",
            "run more trials, or raise --max-share",
        )
    cards = []
    for number in range(chosen["seeds"]):
        folder = out / chosen["folder"] / f"seed-{number}"
        run = read_json(folder / RUN, "a run of the chosen trial")
        recipe = recipe_from_json(run["recipe"])
        cards.append(train(recipe, folder, data_dir=data_dir, progress=progress))
    return cards

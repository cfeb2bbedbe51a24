"""How long an epoch takes here: an estimate from a few timed steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from cgate.core.data import load_dataset
from cgate.core.progress import Silent
from cgate.train.device import accelerated, describe
from cgate.train.loop import Run, enough_threads, settled
from cgate.train.recipes import Recipe
from cgate.train.world import ALONE, World, joined


@dataclass(frozen=True)
class Estimate:
    """An estimate for one recipe on this machine.

    Args:
        steps: training steps that were timed.
        step_seconds: mean of them.
        validation_seconds: one evaluation of the validation images.
        epoch_seconds: steps per epoch times `step_seconds`, and the validation.
        device: where it ran.
    """

    recipe: str
    network: str
    data: str
    gate: str | None
    batch: int
    steps: int
    step_seconds: float
    validation_seconds: float
    epoch_seconds: float
    device: str


def estimate_epoch(recipe: Recipe, steps: int, data_dir: Path | None = None) -> Estimate:
    """Time `steps` training steps of `recipe` and one validation; nothing is saved.

    As many steps and a validation come first and are not timed: the first ones are slower.

    Raises:
        CgateError: the data cannot be read, or training diverged.
    """
    with joined() as world:
        return _estimate(recipe, steps, data_dir, world)


def _estimate(recipe: Recipe, steps: int, data_dir: Path | None, world: World = ALONE) -> Estimate:
    dataset = load_dataset(recipe.data, data_dir)
    recipe = settled(recipe)
    images = len(dataset.train.labels[: recipe.limit])
    per_epoch = images // recipe.batch
    # An epoch over so few images that it has `steps` steps: the real loop, with its waits.
    run = Run(replace(recipe, limit=min(images, steps * recipe.batch)), dataset, world)
    timed = len(run.batches)
    seconds: list[float] = []
    with enough_threads(run), accelerated(run.model, run.device):
        for _ in range(2):
            start = time.perf_counter()
            run.train_epoch(0, Silent())
            middle = time.perf_counter()
            run.validate()
            seconds = [middle - start, time.perf_counter() - middle]
    step, validation = seconds[0] / timed, seconds[1]
    return Estimate(
        recipe.name,
        run.network.name,
        dataset.name,
        recipe.gate.kind if recipe.gate else None,
        recipe.batch,
        timed,
        step,
        validation,
        per_epoch * step + validation,
        describe(run.device),
    )

"""The state of a run that has not finished: written each epoch, read to go on exactly.

An epoch counts as done when last.safetensors says so; state.json, written just before it, may be
one epoch ahead after a crash and is cut back.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from cgate.core.checkpoint import CARD
from cgate.core.errors import CgateError
from cgate.core.files import read_json, write_bytes, write_json
from cgate.train.recipes import recipe_from_json
from cgate.train.world import ALONE, World

LAST = "last.safetensors"
STATE = "state.json"
SCHEMA = 1

Row = dict[str, Any]
"""A line of log.csv by column."""


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Args:
        epoch: epochs done.
        log: a row per epoch done.
    """

    epoch: int
    log: list[Row]


def save_state(
    out: Path,
    recipe: Mapping[str, Any],
    state: State,
    model: nn.Module,
    optimizers: Mapping[str, Optimizer],
) -> None:
    """Write `model`, `optimizers` and the position of the run to the folder `out`.

    Random numbers need no place here: those of an epoch depend on the seed and the epoch alone.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for kind, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"{kind}.{index}.{slot}"] = value
    write_json(out / STATE, {"schema": SCHEMA, "recipe": recipe, "log": state.log})
    data = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={"epoch": str(state.epoch)},
    )
    write_bytes(out / LAST, data)


def claim(out: Path, recipe: Mapping[str, Any]) -> None:
    """Make `out` the folder of a run of `recipe` that has no epoch yet."""
    write_json(out / STATE, {"schema": SCHEMA, "recipe": recipe, "log": []})


def check_new_folder(out: Path, folder: Path) -> None:
    """Refuse to write the checkpoint made from `folder` over it, or over a run under way.

    Raises:
        CgateError: `out` is `folder`, or holds the state of a run.
    """
    if (out / STATE).exists() or out.resolve() == folder.resolve():
        raise CgateError(f"{out} holds another run", "choose another --out")


def load_state(
    out: Path,
    recipe: Mapping[str, Any],
    model: nn.Module,
    optimizers: Mapping[str, Optimizer],
) -> State:
    """Put `model` and `optimizers` back where the run in `out` stood; a fresh state if none.

    Raises:
        CgateError: `out` holds a run of another recipe, or its files are damaged.
    """
    if not (out / STATE).exists():
        return State(0, [])
    stored = read_json(out / STATE, "the state of training")
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
        raise CgateError(f"{out / STATE} is no state of training", "choose another --out")
    check_recipe(out, stored.get("recipe"), recipe)
    if not (out / LAST).exists():
        return State(0, [])
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(out / LAST, framework="pt") as file:
            epoch = int(file.metadata()["epoch"])
            for name in file.keys():  # noqa: SIM118 (the handle is no dictionary)
                tensors[name] = file.get_tensor(name)
        model.load_state_dict(_under("model.", tensors))
        for kind, optimizer in optimizers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for name, value in _under(f"{kind}.", tensors).items():
                index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": slots, "param_groups": groups})
        log = list(stored["log"])[:epoch]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CgateError(
            f"the state of training in {out} is damaged: {error}",
            f"delete {out} and train again",
        ) from error
    return State(epoch, log)


def load_shared_state(
    world: World,
    out: Path,
    recipe: Mapping[str, Any],
    model: nn.Module,
    optimizers: Mapping[str, Optimizer],
) -> State:
    """`load_state` on every rank, from the folder of rank 0: ranks need not share a disk.

    Raises:
        CgateError: as `load_state` does, on every rank.
    """
    if world.size == 1:
        return load_state(out, recipe, model, optimizers)
    paths = [out / name for name in (STATE, LAST)]
    files = world.share({path.name: path.read_bytes() for path in paths if path.exists()})
    with tempfile.TemporaryDirectory() as copy:
        for name, data in files.items():
            write_bytes(Path(copy) / name, data)
        return load_state(Path(copy), recipe, model, optimizers)


def begun_dtype(out: Path) -> str | None:
    """The dtype of the run in `out`, finished or not; None if there is none that can be read."""
    for name in (CARD, STATE):
        with contextlib.suppress(CgateError):
            stored = read_json(out / name, "a run")
            recipe = stored.get("recipe") if isinstance(stored, dict) else None
            return recipe_from_json(recipe).dtype
    return None


def check_recipe(out: Path, stored: Any, recipe: Mapping[str, Any]) -> None:
    """Refuse to mix two recipes in one folder.

    Raises:
        CgateError: `stored` is not `recipe`; the message names the values that differ.
    """
    if not isinstance(stored, dict):
        raise CgateError(f"{out} holds a run without a recipe", "choose another --out")
    # A key that is younger than the run has its default there. What is no recipe at all differs.
    with contextlib.suppress(CgateError):
        stored = recipe_from_json(stored).to_json()
    differ = [
        f"{key} {stored.get(key)!r} there, {recipe.get(key)!r} now"
        for key in sorted(stored.keys() | recipe.keys())
        if stored.get(key) != recipe.get(key)
    ]
    if differ:
        raise CgateError(
            f"{out} holds a run of another recipe: {'; '.join(differ)}",
            "choose another --out, or the recipe of that run",
        )


def remove_state(out: Path) -> None:
    """Delete the files of an unfinished run."""
    for name in (LAST, STATE):
        (out / name).unlink(missing_ok=True)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def epoch_generator(seed: int, epoch: int, world: World = ALONE) -> torch.Generator:
    """The CPU generator of one epoch and rank; it depends on nothing but these numbers."""
    # torch's CPU generator uses the low 32 bits of a seed and drops the others: mix, do not pack.
    mixed = np.random.SeedSequence([seed, epoch, world.rank]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))

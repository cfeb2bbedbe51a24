"""`cgate margins`: the same exits at another budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS
from cgate.core.errors import CgateError
from cgate.core.files import read_json, replaced_folder, write_bytes, write_json
from cgate.core.progress import Progress, Silent
from cgate.train.card import make_card
from cgate.train.evaluate import collect, score, set_margins
from cgate.train.ranges import load_model, load_training_data
from cgate.train.recipes import recipe_from_json
from cgate.train.resume import check_new_folder


def choose_margins(
    folder: Path,
    out: Path,
    share: float | None = None,
    loss: float | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a checkpoint with the margins that meet another budget on the validation images.

    Nothing is trained: weights and ranges stay as they are.

    Args:
        folder: a checkpoint of a network with exits.
        out: a new or empty folder, or a finished checkpoint that is replaced.
        share, loss: the budget, one of them; see `cgate.train.recipes.Exits`.
        data_dir: where its data set lies, see `cgate.core.data.find_data`.

    Returns:
        The content of the new card.json.

    Raises:
        CgateError: `folder` is no checkpoint or has no exits, the budget is none, `out` holds
            something, or the data cannot be read.
    """
    model, card = load_model(folder)
    if not model.network.exits:
        raise CgateError(
            f"{folder} has no exits: {model.network.name} answers every image at its head",
            "cgate train --recipe exit trains a network with exits",
        )
    check_new_folder(out, folder)
    recipe = recipe_from_json(card.get("recipe"))
    if recipe.exits is None:
        raise CgateError(f"{folder / CARD}: its recipe has no exits", "train the checkpoint again")
    settings = replace(recipe.exits, share=share, loss=loss)
    recipe = replace(recipe, exits=settings)
    dataset = load_training_data(folder, card, data_dir)
    answers = collect(model, dataset.validation)
    set_margins(model, answers, settings)
    validation = score(model.network, answers)
    # What `cgate qat` or `cgate freeze` wrote there holds for other margins too.
    new = {**card, **make_card(model, recipe, dataset, validation, progress or Silent())}
    try:
        kept = {name: (folder / name).read_bytes() for name in (WEIGHTS, RANGES)}
    except OSError as error:
        raise CgateError(
            f"cannot read {error.filename}: {error.strerror}", f"cgate calibrate {folder}"
        ) from error
    with replaced_folder(out, CARD) as made:
        for name, content in kept.items():
            write_bytes(made / name, content)
        write_json(made / CARD, new)
    return dict(read_json(out / CARD, "the checkpoint's card"))

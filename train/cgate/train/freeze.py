"""`cgate freeze`: a gated checkpoint as the static network that its gates mostly choose.

If that is as good as the gated one at no more MACs, the gates were a slow way to find it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS
from cgate.core.errors import CgateError
from cgate.core.files import replaced_folder, write_bytes, write_json
from cgate.core.progress import Progress, Silent
from cgate.train.card import make_card
from cgate.train.evaluate import evaluate
from cgate.train.frozen import frozen_network, frozen_weights, majority
from cgate.train.models import GatedResNet
from cgate.train.ranges import load_model, load_training_data, measure_ranges
from cgate.train.recipes import recipe_from_json
from cgate.train.resume import check_new_folder


def freeze(
    folder: Path, out: Path, data_dir: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the checkpoint of a gated network with each gate fixed at its majority decision.

    The decisions are taken on the validation images. Nothing is trained. The card says in
    `frozen_from` what was fixed.

    Args:
        folder: a checkpoint that `train` finished.
        out: a new or empty folder, or a finished checkpoint that is replaced.
        data_dir: where its data set lies, see `cgate.core.data.find_data`.

    Returns:
        The content of the new card.json.

    Raises:
        CgateError: `folder` is no checkpoint or has no gates, `out` holds something, or the data
            cannot be read.
    """
    shown = progress or Silent()
    model, card = load_model(folder)
    network = model.network
    if not network.gated:
        raise CgateError(f"{folder} has no gates: {network.name} is static already")
    check_new_folder(out, folder)
    recipe = recipe_from_json(card.get("recipe"))
    dataset = load_training_data(folder, card, data_dir)
    shown.message(f"each gate's decisions on {len(dataset.validation):,} validation images")
    decisions = majority(evaluate(model, dataset.validation))
    static = GatedResNet(frozen_network(network, decisions))
    static.load_state_dict(frozen_weights(network, static.network, model.state_dict()))
    static.eval()
    new = make_card(static, recipe, dataset, evaluate(static, dataset.validation), shown)
    new["frozen_from"] = {
        "network": network.name,
        "open": decisions,
        "accuracy": card["accuracy"],
        "executed_macs": card["executed_macs"],
        "dense_macs": card["dense_macs"],
    }
    shown.message("activation ranges")
    ranges = measure_ranges(static, dataset, recipe.seed)
    with replaced_folder(out, CARD) as made:
        weights = {name: value.contiguous() for name, value in static.state_dict().items()}
        write_bytes(made / WEIGHTS, save(weights))
        write_json(made / RANGES, ranges)
        write_json(made / CARD, new)
    return new

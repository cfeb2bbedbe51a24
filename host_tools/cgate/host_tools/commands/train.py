"""`cgate train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, data_dir_option
from cgate.host_tools.console import facts


def card_lines(card: Mapping[str, Any], out: Path) -> list[str]:
    """A checkpoint's card for people."""
    accuracy, executed, dense = card["accuracy"], card["executed_macs"], card["dense_macs"]
    pairs = [
        ("checkpoint", str(out)),
        (
            "network",
            f"{card['network']['name']} on {card['data']['name']}, {card['epochs']} epochs",
        ),
        *(
            (f"{split} accuracy", f"{accuracy[split]:.2%} of {count:,} images (float32)")
            for split, count in accuracy["images"].items()
        ),
        (
            "executed MACs",
            f"{executed:,.0f} of {dense:,} dense ({executed / dense:.1%}), gates included",
        ),
        *(
            (f"gate {block} open", f"{rates['all']:.1%}")
            for block, rates in card["open_rates"].items()
        ),
    ]
    return facts(pairs)


@click.command(
    cls=Command,
    epilog=examples(
        "cgate train --recipe demo --out runs/digits",
        "cgate train --recipe balanced --out runs/balanced --data-dir data",
    ),
)
@click.option(
    "--recipe", required=True, metavar="NAME", help="Named recipe; an unknown name lists all."
)
@click.option(
    "--out",
    required=True,
    type=FOLDER,
    metavar="FOLDER",
    help="Checkpoint folder; training resumes if it holds a stopped run.",
)
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="Instead of the recipe's.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Use the first N training images only."
)
@click.option(
    "--seed", type=click.IntRange(0, (1 << 32) - 1), metavar="S", help="Instead of the recipe's."
)
@data_dir_option
def command(
    recipe: str,
    out: Path,
    epochs: int | None,
    limit: int | None,
    seed: int | None,
    data_dir: Path | None,
) -> Outcome:
    """Train a gated network; resumes where it stopped."""
    from cgate.train.loop import train
    from cgate.train.recipes import find_recipe

    shown = progress()
    chosen = find_recipe(recipe)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    card = train(chosen, out, data_dir=data_dir, epochs=epochs, limit=limit, progress=shown)
    shown.message(f"next: cgate export {out} --target cortex-m4 --out BUNDLE")
    return Outcome({"folder": str(out), "card": card}, card_lines(card, out))

"""`cgate train`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import (
    FOLDER,
    changed,
    data_dir_option,
    recipe_options,
)
from cgate.host_tools.console import facts

if TYPE_CHECKING:
    from cgate.train.benchmark import Estimate


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
        *(
            (
                f"predicted CIR {block}",
                f"correlates {each['correlation']:.2f} with the true one, decides alike for "
                f"{each['agreement']:.1%} (chance {each['chance']:.1%})",
            )
            for block, each in card.get("cir", {}).items()
        ),
        *(
            (f"{gate['kind']} gates", f"cannot be exported: {gate['refusal']}")
            for gate in (card.get("gate"),)
            if gate and not gate["exportable"]
        ),
        *(
            (
                f"left behind {each['block']}",
                f"{each['left']:.1%}, {each['accuracy']:.1%} of them right; "
                f"alone it would be {each['alone']:.1%} right",
            )
            for each in card.get("exits", [])
        ),
    ]
    return facts(pairs)


def estimate_lines(estimate: Estimate) -> list[str]:
    """An estimated epoch for people."""
    gate = f", {estimate.gate} gates" if estimate.gate else ", no gates"
    return facts(
        [
            ("recipe", f"{estimate.recipe}: {estimate.network} on {estimate.data}{gate}"),
            ("device", estimate.device),
            (
                "step",
                f"{estimate.step_seconds:.4f} s for {estimate.batch} images, "
                f"mean of {estimate.steps}",
            ),
            ("validation", f"{estimate.validation_seconds:.2f} s"),
            ("epoch", f"about {estimate.epoch_seconds:.1f} s (an estimate from these two)"),
        ]
    )


@click.command(
    cls=Command,
    epilog=examples(
        "cgate train --out runs/exits",
        "cgate train --recipe demo --out runs/digits",
        "cgate train --recipe balanced --out runs/balanced --data-dir data",
        "cgate train --recipe balanced --gate cir-predicted --out runs/predicted",
        "cgate train --recipe balanced --gate cir --ablation no-cir --out runs/ablation",
        "cgate train --recipe balanced --network mobilenetv2 --width 0.5 --out runs/mobilenet",
        "cgate train --recipe cgate --from runs/dense --epochs 30 --out runs/gated",
        "cgate train --recipe balanced --benchmark 20",
        "torchrun --nproc-per-node 4 -m cgate.host_tools train --recipe balanced --out runs/four",
    ),
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="Named recipe; an unknown name lists all. Default: exit, or cgate where --gate is given.",
)
@click.option(
    "--out",
    type=FOLDER,
    metavar="FOLDER",
    help="Checkpoint folder; training resumes if it holds a stopped run.",
)
@click.option(
    "--benchmark",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Only estimate the seconds per epoch on this machine, from so many timed steps.",
)
@recipe_options
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="Instead of the recipe's.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Use the first N training images only."
)
@data_dir_option
def command(
    recipe: str | None,
    out: Path | None,
    benchmark: int | None,
    epochs: int | None,
    limit: int | None,
    data_dir: Path | None,
    **changes: Any,
) -> Outcome | None:
    """Train a gated network; resumes where it stopped.

    Under torchrun its processes train one network together.
    """
    if (out is None) == (benchmark is None):
        raise click.UsageError("give either --out FOLDER or --benchmark STEPS")
    from cgate.train.loop import train
    from cgate.train.recipes import find_recipe

    # Exits are what pays by results/gates.csv; who asks for a gate means gates alone.
    chosen = changed(find_recipe(recipe or ("cgate" if changes["gate"] else "exit")), changes)
    shown = progress()
    # The other processes of torchrun work along in silence.
    silent = int(os.environ.get("RANK", "0")) > 0
    if benchmark is not None:
        from cgate.train.benchmark import estimate_epoch

        estimate = estimate_epoch(replace(chosen, limit=limit), benchmark, data_dir)
        return None if silent else Outcome(asdict(estimate), estimate_lines(estimate))
    assert out is not None
    card = train(chosen, out, data_dir=data_dir, epochs=epochs, limit=limit, progress=shown)
    if silent:
        return None
    if card.get("gate") is None or card["gate"]["exportable"]:
        shown.message(f"next: cgate export {out} --target cortex-m4 --out BUNDLE")
    return Outcome({"folder": str(out), "card": card}, card_lines(card, out))

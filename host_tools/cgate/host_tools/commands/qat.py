"""`cgate qat`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.export.quantize import DEFAULT_RANGES, RANGE_CHOICES
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, data_dir_option
from cgate.host_tools.commands.train import card_lines


@click.command(
    cls=Command,
    epilog=examples(
        "cgate qat runs/digits --out runs/digits-qat",
        "cgate qat runs/balanced --out runs/balanced-qat --epochs 1 --limit 10000",
    ),
)
@click.argument("checkpoint", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, metavar="FOLDER", help="Checkpoint to write.")
@click.option(
    "--epochs", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Passes."
)
@click.option(
    "--lr",
    type=click.FloatRange(0, 1, min_open=True),
    default=1e-5,
    show_default=True,
    metavar="RATE",
    help="Learning rate at first.",
)
@click.option(
    "--batch", type=click.IntRange(2), default=64, show_default=True, metavar="N", help="Images."
)
@click.option(
    "--ranges",
    type=click.Choice(RANGE_CHOICES),
    default=DEFAULT_RANGES,
    show_default=True,
    help="How scales are chosen, as for `cgate export`, which then takes the same.",
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Use the first N training images only."
)
@click.option("--seed", type=click.IntRange(0, (1 << 32) - 1), default=0, metavar="N")
@data_dir_option
def command(
    checkpoint: Path,
    out: Path,
    epochs: int,
    lr: float,
    batch: int,
    ranges: str,
    limit: int | None,
    seed: int,
    data_dir: Path | None,
) -> Outcome:
    """Fine-tune CHECKPOINT on the very integers that it exports to.

    Every forward pass is the plan's, bit for bit; the float network as it was is the teacher, for
    answers and gate decisions. What does not help on the validation images is not kept.
    """
    from cgate.train.qat import Tuning, qat

    tuning = Tuning(epochs=epochs, lr=lr, batch=batch, ranges=ranges, limit=limit, seed=seed)
    shown = progress()
    card = qat(checkpoint, out, tuning, data_dir, shown)
    shown.message(f"next: cgate export {out} --target cortex-m4 --out BUNDLE")
    before, after = (card["qat"]["validation"][when] for when in ("before", "after"))
    lines = [
        *card_lines(card, out),
        f"int8, validation: accuracy {before['accuracy']:.2%} -> {after['accuracy']:.2%}, gates "
        f"agree {before['agreement']:.2%} -> {after['agreement']:.2%}",
    ]
    return Outcome({"folder": str(out), "card": card}, lines)

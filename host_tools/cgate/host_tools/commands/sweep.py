"""`cgate sweep`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, changed, data_dir_option, recipe_options
from cgate.host_tools.console import table


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def result_lines(
    rows: Sequence[Mapping[str, Any]], cards: Sequence[Mapping[str, Any]], out: Path
) -> list[str]:
    """The trials, and the test accuracy of the chosen one if it is finished."""
    head = [key for key in rows[0] if key != "folder"] if rows else ["trial"]
    lines = table(head, [[_text(row[key]) for key in head] for row in rows])
    lines += ["", f"results  {out / 'results.csv'}"]
    if cards:
        tests = [card["accuracy"]["test"] for card in cards]
        spread = f" (sd {statistics.stdev(tests):.2%})" if len(tests) > 1 else ""
        lines.append(
            f"chosen   test accuracy {statistics.fmean(tests):.2%}{spread}, {len(tests)} seeds"
        )
    return lines


@click.command(
    cls=Command,
    epilog=examples(
        "cgate sweep --recipe balanced --recipe aggressive --seeds 3 --out runs/sweep",
        "cgate sweep --recipe balanced --search lr=0.1:0.8:log --search tau=0.6,0.7 --trials 20 "
        "--out runs/lr",
        "cgate sweep --recipe balanced --search gate=controller,anchor,none --seeds 3 "
        "--storage postgresql://host/cgate --out runs/gates",
    ),
)
@click.option(
    "--recipe", "names", required=True, multiple=True, metavar="NAME", help="Tried each; repeat."
)
@click.option(
    "--search",
    multiple=True,
    metavar="KEY=VALUES",
    help="A value of the recipe and what to try: LOW:HIGH, LOW:HIGH:log or A,B,C; repeat.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Runs per trial; a trial counts with their mean.",
)
@click.option(
    "--trials",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="Of all workers together; fewer if all choices were tried.",
)
@click.option(
    "--max-share",
    type=click.FloatRange(0, min_open=True),
    metavar="SHARE",
    help="The chosen trial executes at most this share of the dense MACs.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Data base or journal file that all workers share. Default: SQLite in --out.",
)
@click.option(
    "--finish",
    "finishing",
    is_flag=True,
    help="Finish the chosen trial: the one look at the test images.",
)
@click.option("--out", required=True, type=FOLDER, metavar="FOLDER", help="Folder of the runs.")
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="Instead of the recipe's.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Use the first N training images only."
)
@recipe_options
@data_dir_option
def command(
    names: tuple[str, ...],
    search: tuple[str, ...],
    seeds: int,
    trials: int,
    max_share: float | None,
    storage: str | None,
    finishing: bool,
    out: Path,
    data_dir: Path | None,
    **changes: Any,
) -> Outcome:
    """Search over recipes and seeds; the same command elsewhere joins in.

    Validation images alone compare the trials. The storage is Optuna's.
    """
    from cgate.train.recipes import find_recipe
    from cgate.train.sweep import Sweep, finish, parse_axis, run_sweep

    recipes = tuple(changed(find_recipe(name), changes) for name in names)
    sweep = Sweep(recipes, tuple(map(parse_axis, search)), seeds, max_share)
    shown = progress()
    rows = run_sweep(sweep, out, trials, storage=storage, data_dir=data_dir, progress=shown)
    cards = finish(rows, out, data_dir=data_dir, progress=shown) if finishing else []
    return Outcome(
        {"folder": str(out), "trials": rows, "cards": cards}, result_lines(rows, cards, out)
    )

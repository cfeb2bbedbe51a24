"""`cgate measure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cgate.core.files import write_json, write_text
from cgate.core.plan import load_bundle
from cgate.core.targets import Target, find_target
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import (
    FOLDER,
    data_options,
    jobs_option,
    limit_option,
    target_option,
)
from cgate.host_tools.console import facts, table
from cgate.host_tools.summary import COLUMNS, KINDS


def energy_text(value: Sequence[float], unit: str = "uJ") -> str:
    """A modelled figure with its span: "512 (488 to 553) uJ"."""
    return f"{value[0]:,.1f} ({value[1]:,.1f} to {value[2]:,.1f}) {unit}"


def _inference_table(value: Mapping[str, Any]) -> list[str]:
    rows = []
    for row in value["accounts"]:
        kind = KINDS[row["source"]]
        rows.append([kind, *(f"{row['inference'][key]:,.0f}" for key in COLUMNS)])
        if "latency_ms" in row:
            start = "modelled " if row["source"] == "modelled_cycles" else ""
            rows.append(
                [f"{start}latency, ms", *(f"{row['latency_ms'][key]:.2f}" for key in COLUMNS)]
            )
            if row["energy_uj"] is not None:
                for i, what in ((0, "modelled energy, uJ"), (1, "  at least"), (2, "  at most")):
                    cells = [f"{row['energy_uj'][key][i]:,.1f}" for key in COLUMNS]
                    rows.append([what, *cells])
    return table(["per inference", *COLUMNS.values()], rows, " " + "r" * len(COLUMNS))


def _unit_table(value: Mapping[str, Any]) -> list[str]:
    """The best source that there is: cycles where they are known. --json has all."""
    chosen = value["accounts"][-1]
    head = ["unit", "runs", "MACs", f"{KINDS[chosen['source']]}, median", "most"]
    timed = "latency_ms" in chosen
    head += ["ms, median"] if timed else []
    joules = timed and value["board"]["energy"] is not None
    head += ["uJ, median (modelled)"] if joules else []
    head += ["share of MACs", "share of cost"]
    rows = []
    for unit in chosen["units"]:
        cost = unit["cost"]
        row = [unit["name"], f"{unit['ran']:.1%}", f"{unit['macs']:,}"]
        row += ["-", "-"] if cost is None else [f"{cost['median']:,}", f"{cost['max']:,}"]
        if timed:
            row.append("-" if cost is None else f"{unit['latency_ms']['median']:.3f}")
        if joules:
            row.append(
                "-" if cost is None else energy_text(unit["energy_uj"]["median"], "").strip()
            )
        rows.append([*row, f"{unit['macs_share']:.1%}", f"{unit['share']:.1%}"])
    return table(head, rows, " " + "r" * len(head))


def _savings_table(value: Mapping[str, Any]) -> list[str]:
    chosen = value["accounts"][-1]
    found = chosen["savings"]
    if not found["blocks"] and found["exits"] is None:
        return ["the network has no gates and no exits"]
    kind = KINDS[chosen["source"]]
    rows = []
    for row in found["blocks"]:
        macs, cost = row["macs"]["saved"], row["cost"]["saved"]
        opened = "-" if row["open"] is None else f"{row['open']:.1%}"
        rows.append([row["block"], opened, f"{macs:.2%}", f"{cost:.2%}", f"{cost - macs:+.2%}"])
    for name in ("exits", "total"):
        if found[name] is not None:
            macs, cost = found[name]["macs"], found[name]["cost"]
            rows.append([name, "", f"{macs:.2%}", f"{cost:.2%}", f"{cost - macs:+.2%}"])
    head = ["saved, net of gates", "open", "by MACs", f"by {kind}", "MACs mislead by"]
    return table(head, rows, " rrrr")


def _duty_lines(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, board = value["duty"], value["board"]
    pairs = [
        (
            "average power",
            f"{energy_text(found['power_uw'], 'uW')}, modelled: {found['per_second']:g} inferences "
            f"per second, busy {found['busy']:.1%} of the time, else {found['sleep_uw']:g} uW "
            f"({board['energy']['sleep_mode']})",
        ),
        ("worst case allows", f"{found['per_second_worst']:.1f} inferences per second"),
    ]
    if found["battery"] is not None:
        days = found["battery"]["days"]
        pairs.append(
            (
                "battery life",
                f"{energy_text(days, 'days')} at most, of {found['battery']['mah']:g} mAh used at "
                f"{found['battery']['volts']:g} V; without self-discharge and converter losses",
            )
        )
    return pairs


def lines(value: Mapping[str, Any]) -> list[str]:
    """A measurement for people."""
    right, macs, board = value["accuracy"], value["macs"], value["board"]
    pairs = [
        (
            "measured",
            f"{value['images']:,} {value['split']} images of {value['data']} on {value['target']} "
            f"({value['runner']}); {value['forced_images']} with all gates open, as many shut",
        ),
        ("accuracy", f"{right['value']:.2%} +- {right['standard_error']:.2%}"),
        (
            "executed MACs",
            f"{macs['executed']['mean']:,.0f} of {macs['dense']:,} ({macs['share']:.1%})",
        ),
        ("worst case", "the dearest that each unit was seen, all in one inference, gates included"),
    ]
    timed = value["accounts"][-1]["source"] != "instructions"
    if timed:
        same = "" if board["name"] == value["target"] else f", cycles of {value['target']}"
        pairs.append(("clock", f"{board['clock_hz'] / 1e6:g} MHz of {board['name']}{same}"))
    else:
        pairs.append(("cycles", "there is no model of this core: instructions only, no latency"))
    if board["energy"] is not None and timed:
        model = board["energy"]
        pairs.append(
            (
                "energy model",
                f"{model['pj_per_cycle']:g} ({model['pj_low']:g} to {model['pj_high']:g}) pJ per "
                f"cycle: {model['runs']}",
            )
        )
    elif timed:
        pairs.append(
            ("energy", f"not modelled: nothing published calibrates {board['name']} (--as-board)")
        )
    if value["duty"] is not None:
        pairs += _duty_lines(value)
    for row in value["meters"]:
        pairs.append(
            (
                f"measured by {row['meter']}",
                f"{row['energy_uj']:,.1f} uJ per inference on {row['board']}, median of "
                f"{row['windows']} windows",
            )
        )
    made = [*facts(pairs), "", *_inference_table(value), "", *_unit_table(value)]
    made += ["", *_savings_table(value)]
    texts = [value["accounts"][-1]["savings"]["text"]]
    texts += [value["verdict"]["text"]] if value["verdict"] else []
    made += ["", *(text for text in texts if text)]
    return [*made, "", *facts([("file", value["file"]), ("report", value["html"])])]


@click.command(
    cls=Command,
    epilog=examples(
        "cgate measure runs/bundle",
        "cgate measure runs/bundle --as-board nucleo-l4r5zi --per-second 1 --battery-mah 220",
        "cgate measure runs/bundle --board nucleo-l4r5zi --on serial --limit 200",
    ),
)
@click.argument("bundle", type=FOLDER)
@target_option("Another machine than the bundle was exported for.")
@click.option(
    "--on",
    type=click.Choice(["qemu", "serial"]),
    default="qemu",
    show_default=True,
    help="The emulated target, or a board on a serial line.",
)
@click.option(
    "--port", default="auto", show_default=True, metavar="PORT", help="The board's serial port."
)
@click.option(
    "--as-board",
    metavar="NAME",
    help="Clock and energy of this board instead; it must have the same core.",
)
@click.option(
    "--per-second",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Inferences per second with sleep between: adds the average power.",
)
@click.option(
    "--battery-mah",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Capacity of a battery: adds its life. Needs --per-second.",
)
@click.option(
    "--battery-v",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="N",
    help="Mean voltage of that battery; of no effect behind a linear regulator.",
)
@click.option("--svg", type=FOLDER, metavar="FILE", help="Also draw what each gate saves.")
@limit_option
@jobs_option
@data_options
def command(
    bundle: Path,
    target: Target | None,
    on: str,
    port: str,
    as_board: str | None,
    per_second: float | None,
    battery_mah: float | None,
    battery_v: float,
    svg: Path | None,
    limit: int | None,
    jobs: int | None,
    data: str | None,
    data_dir: Path | None,
    split: str,
    chosen: Path | None,
) -> Outcome:
    """Measure what an inference of BUNDLE costs: the distribution and the worst case.

    Runs the images with the learned gates, all again with every gate held at its usual decision,
    and a few with all gates open and all shut. Writes measure.json and the report; goes on where
    Ctrl-C stopped it.
    """
    from cgate.host_tools.inputs import load_inputs
    from cgate.host_tools.measure import MEASUREMENT, board_for, measurement
    from cgate.host_tools.measured_runs import run_all
    from cgate.host_tools.page.savings import savings_svg
    from cgate.host_tools.report import HTML, write_report

    if battery_mah is not None and per_second is None:
        raise click.UsageError("--battery-mah says nothing without --per-second")
    plan = load_bundle(bundle).plan
    board = None if as_board is None else find_target(as_board)
    board_for(target or find_target(plan.target), board)  # refused before minutes of running
    inputs = load_inputs(plan, data, data_dir=data_dir, split=split, limit=limit, chosen=chosen)
    runs = run_all(bundle, inputs, target=target, on=on, port=port, jobs=jobs, progress=progress())
    value = measurement(
        bundle,
        plan,
        runs.learned,
        runs.opened,
        runs.shut,
        runs.majority,
        as_board=board,
        per_second=per_second,
        battery=None if battery_mah is None else (battery_mah, battery_v),
    )
    path = bundle / MEASUREMENT
    write_json(path, value)
    if svg is not None:
        write_text(svg, savings_svg(value))
    write_report(bundle, run=runs.name, data_dir=data_dir)
    # Only now: had a disk been full, the next call would have gone on behind the last image.
    runs.forget()
    value = {**value, "file": str(path), "html": str(bundle / HTML)}
    return Outcome(value, lines(value))

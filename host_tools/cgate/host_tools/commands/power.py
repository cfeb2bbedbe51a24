"""`cgate power`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.core.errors import CgateError
from cgate.core.plan import load_bundle
from cgate.core.targets import Target
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, target_option
from cgate.host_tools.console import facts

METERS = ("joulescope", "ppk2", "otii", "lpm01a", "csv")


@click.command(
    cls=Command,
    epilog=examples(
        "cgate power runs/bundle --meter lpm01a --port /dev/ttyACM1 --voltage 3.0 "
        "--board nucleo-l4r5zi --dut /dev/ttyACM0 --iterations 200",
        "cgate power runs/bundle --meter csv --file scope.csv --voltage 3.0 --iterations 200",
    ),
)
@click.argument("bundle", type=FOLDER)
@click.option("--meter", type=click.Choice(METERS), required=True, help="The instrument.")
@target_option("The board that is measured. Default: what the bundle was exported for.")
@click.option("--port", metavar="PORT", help="Serial port of a ppk2 or lpm01a.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where Otii's server runs.")
@click.option("--file", type=FOLDER, help="The recording, for csv.")
@click.option(
    "--columns",
    default="time,current,edge",
    show_default=True,
    help="Of the recording: time, current, edge and, if there is one, voltage.",
)
@click.option(
    "--voltage",
    type=click.FloatRange(0.8, 5.0),
    metavar="VOLTS",
    help="What the board is supplied with. A joulescope measures it.",
)
@click.option(
    "--rate", type=click.FloatRange(100), metavar="HZ", help="Samples per second (otii, joulescope)"
)
@click.option(
    "--dut",
    metavar="PORT",
    help="The board's serial port: cgate has it run the windows. It must hold the program of "
    "`cgate flash --app mlperf-energy`. Default: something else makes the edges.",
)
@click.option(
    "--iterations", type=click.IntRange(1), required=True, help="Inferences in one window."
)
@click.option("--windows", type=click.IntRange(1), default=5, show_default=True, help="Valid ones.")
@click.option("--out", type=FOLDER, help="Default: power/<meter>.json of the bundle.")
def command(
    bundle: Path,
    meter: str,
    target: Target | None,
    port: str | None,
    host: str,
    file: Path | None,
    columns: str,
    voltage: float | None,
    rate: float | None,
    dut: str | None,
    iterations: int,
    windows: int,
    out: Path | None,
) -> Outcome:
    """Measure the energy of an inference of BUNDLE with a power meter.

    A window lasts from one falling edge of the board's power pin to the next, at least 10 s. The
    result is the median of the windows. A command that was interrupted goes on where it stopped.
    """
    from cgate.host_tools.meters.dut import Dut
    from cgate.host_tools.meters.find import make_meter
    from cgate.host_tools.meters.record import record

    loaded = load_bundle(bundle)
    instrument = make_meter(
        meter, port=port, host=host, file=file, columns=columns, volts=voltage, rate_hz=rate
    )
    if dut is not None and meter == "csv":
        raise CgateError("a recording cannot have the board run", "leave --dut away")
    path = out or bundle / "power" / f"{meter}.json"
    provenance = {
        "plan_sha256": loaded.sha256,
        "board": target.name if target else loaded.plan.target,
        "source": "measured",
    }
    board = Dut(dut, iterations) if dut is not None else None
    try:
        value = record(
            path,
            instrument,
            provenance=provenance,
            iterations=iterations,
            wanted=windows,
            trigger=board.run if board else None,
            progress=progress(),
        )
    finally:
        if board is not None:
            board.close()
    joules = value["joules_per_inference"]
    valid = [w for w in value["windows"] if not w["fault"]]
    watts = [w["joules"] / w["seconds"] for w in valid]
    pairs = [
        ("energy", f"{joules * 1e6:.1f} uJ per inference, median of {len(valid)} windows"),
        ("power", f"{min(watts) * 1e3:.3f} to {max(watts) * 1e3:.3f} mW"),
        ("not valid", f"{len(value['windows']) - len(valid)} windows"),
        ("record", str(path)),
    ]
    return Outcome({**value, "record": str(path)}, facts(pairs))

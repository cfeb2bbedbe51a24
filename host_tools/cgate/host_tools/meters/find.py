"""The instrument that the command line asks for."""

from __future__ import annotations

from pathlib import Path

from cgate.core.errors import CgateError
from cgate.host_tools.meters.samples import Meter


def make_meter(
    name: str,
    *,
    port: str | None = None,
    host: str = "127.0.0.1",
    file: Path | None = None,
    columns: str = "time,current,edge",
    volts: float | None = None,
    rate_hz: float | None = None,
) -> Meter:
    """An instrument, not yet connected; its library is imported only now.

    Args:
        name: "joulescope", "ppk2", "otii", "lpm01a" or "csv".
        columns: of a CSV file: time, current, edge and perhaps voltage, separated by commas.

    Raises:
        CgateError: something that this instrument needs was not given.
    """
    if name == "csv":
        from cgate.host_tools.meters.csv_file import CsvMeter

        parts = [part.strip() for part in columns.split(",")]
        if file is None or len(parts) not in (3, 4):
            raise CgateError(
                "a recording needs its file and three or four columns",
                "add --file scope.csv --columns time,current,edge",
            )
        voltage = parts[3] if len(parts) == 4 else None
        return CsvMeter(file, volts=volts, columns=(parts[0], parts[1], parts[2], voltage))
    if name == "joulescope":
        from cgate.host_tools.meters.joulescope import Joulescope, find_device

        return Joulescope(find_device(), rate_hz or 100_000.0)
    if volts is None:
        raise CgateError(f"the {name} supplies the board", "say with how much: --voltage 3.0")
    if name == "otii":
        from cgate.host_tools.meters.otii import Otii

        return Otii(volts, host, rate_hz=rate_hz or 4000.0)
    if port is None:
        raise CgateError(f"the {name} is on a serial port", "say on which: --port /dev/ttyACM0")
    if name == "lpm01a":
        from cgate.host_tools.meters.lpm01a import Lpm01a

        return Lpm01a(port, volts)
    from cgate.host_tools.meters.ppk2 import Ppk2

    return Ppk2(port, volts)

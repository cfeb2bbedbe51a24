"""Measuring a number of windows, in a file that an interrupted measurement continues."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cgate.core.errors import EXIT_CHECK_FAILED, EXIT_TARGET_FAILED, CgateError
from cgate.core.files import read_json, write_json
from cgate.core.progress import Progress, Silent
from cgate.host_tools.meters.samples import Meter
from cgate.host_tools.meters.windows import MIN_SECONDS, Collector, Window

SCHEMA = 1
WINDOWS = 5
QUIET_S = 0.5
"""Edges this long before a window belong to something else, such as the board's start."""


def read_record(path: Path) -> dict[str, Any]:
    """Read power.json (SPEC.md, section 13).

    Raises:
        CgateError: it is missing or of another schema.
    """
    value = read_json(path, "the power measurement")
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or "windows" not in value:
        raise CgateError(f"{path} is no power measurement of schema {SCHEMA}", "measure again")
    return value


def joules_per_inference(record: dict[str, Any]) -> float | None:
    """Median over the valid windows; None unless the measurement is complete."""
    valid = [w["joules"] for w in record["windows"] if not w["fault"]]
    if len(valid) < record["wanted"]:
        return None
    return float(statistics.median(valid)) / int(record["iterations"])


class _Record:
    """The file, written after every window."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.value: dict[str, Any] = {"schema": SCHEMA, **settings, "identity": "", "windows": []}
        if path.exists():
            old = read_record(path)
            differ = [key for key, value in settings.items() if old.get(key) != value]
            if differ:
                raise CgateError(
                    f"{path} was measured with another {differ[0]}: {old.get(differ[0])!r}",
                    "give another --out, or delete that file",
                )
            self.value = old

    @property
    def valid(self) -> int:
        return sum(1 for window in self.value["windows"] if not window["fault"])

    def add(self, window: Window) -> None:
        self.value["windows"].append(window.to_json())
        self.write()

    def write(self) -> None:
        self.value["joules_per_inference"] = joules_per_inference(self.value)
        write_json(self.path, self.value)


def _next_windows(
    meter: Meter, collector: Collector, trigger: Callable[[], None] | None, timeout_s: float
) -> list[Window]:
    """The next window, or all that have come; none if the meter's data has ended."""
    if trigger is not None:
        quiet_until = time.monotonic() + QUIET_S
        while time.monotonic() < quiet_until:
            if (chunk := meter.read(0.05)) is not None:
                collector.feed(chunk)
        collector.drop()
        trigger()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        chunk = meter.read(0.25)
        if chunk is None:
            if meter.ended:
                return []
            continue
        if windows := collector.feed(chunk):
            # What follows the window that was asked for is none.
            return windows if trigger is None else windows[:1]
    raise CgateError(
        f"no window ended within {timeout_s:g} s: "
        + ("its second edge is missing" if collector.open else "no falling edge came"),
        "see that the board's power pin is wired to the meter's logic input, with a common ground",
        EXIT_TARGET_FAILED,
    )


def record(
    path: Path,
    meter: Meter,
    *,
    provenance: dict[str, Any],
    iterations: int,
    wanted: int = WINDOWS,
    min_seconds: float = MIN_SECONDS,
    trigger: Callable[[], None] | None = None,
    timeout_s: float = 600.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure until `wanted` valid windows are in the file; go on where an earlier call stopped.

    Args:
        path: power.json; written after every window.
        provenance: what was measured: board, plan_sha256 and the like. Part of the file.
        iterations: inferences per window.
        trigger: makes the board run one window; None if something else does.
        timeout_s: seconds that one window may take.

    Returns:
        The content of the file.

    Raises:
        CgateError: the meter has gone, nothing came (4); too many windows were worthless (1);
            the file is another measurement's.
    """
    progress = progress or Silent()
    settings = {
        "meter": meter.name,
        "volts": meter.volts,
        "rate_hz": meter.rate_hz,
        **provenance,
        "iterations": iterations,
        "wanted": wanted,
        "min_seconds": min_seconds,
    }
    file = _Record(path, settings)
    progress.start("power windows", wanted)
    for _ in range(file.valid):
        progress.advance()
    faults = 0
    try:
        with meter:
            file.value["identity"] = meter.identity()
            collector = Collector(meter.rate_hz, min_seconds)
            while file.valid < wanted:
                windows = _next_windows(meter, collector, trigger, timeout_s)
                if not windows:
                    break
                for window in windows:
                    if file.valid == wanted:
                        break
                    file.add(window)
                    progress.advance(0 if window.fault else 1)
                    faults += bool(window.fault)
                if faults > wanted:
                    raise CgateError(
                        f"{faults} windows were not valid, the last because {window.fault}",
                        "`cgate power --help` says what a window is",
                        EXIT_CHECK_FAILED,
                    )
    except CgateError as error:
        raise CgateError(
            f"{error.message}\n{file.valid} of {wanted} windows are in {path}",
            error.hint,
            error.code,
        ) from error
    finally:
        if path.exists() or file.value["windows"]:
            file.write()
    if file.valid < wanted:
        reasons = [w["fault"] for w in file.value["windows"] if w["fault"]]
        raise CgateError(
            f"the data ends after {file.valid} valid windows of {wanted}"
            + (f"; the last that was not valid: {reasons[-1]}" if reasons else ""),
            f"--windows {file.valid} would do" if file.valid else "record longer",
            EXIT_CHECK_FAILED,
        )
    return file.value

"""A recording of any oscilloscope or meter, exported as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cgate.core.errors import CgateError
from cgate.host_tools.meters.samples import Chunk, falling

TOLERANCE = 0.5
"""A step of time that is off by this share of the usual one is a gap."""


class CsvMeter:
    """Columns of a CSV file, with a head line: time [s], current [A], logic level, voltage [V]."""

    name = "csv"

    def __init__(
        self,
        path: Path,
        *,
        volts: float | None,
        columns: tuple[str, str, str, str | None] = ("time", "current", "edge", None),
        threshold: float = 0.5,
    ) -> None:
        """Read the file.

        Args:
            volts: supply voltage, where there is no column of it.
            columns: names of the time, current, logic and voltage columns.
            threshold: level of the logic column below which it is low.

        Raises:
            CgateError: unreadable, a column is missing, a value is no number, time runs back.
        """
        self.path = path
        self.volts = None if columns[3] else volts
        table = _columns(path, [name for name in columns if name])
        times, current, level = table[:3]
        if len(times) < 2 or not (np.diff(times) > 0).all():
            raise CgateError(f"{path}: the time should grow from line to line, and does not")
        if columns[3] is None and volts is None:
            raise CgateError(
                f"{path} has no column of the voltage", "add --voltage, or name it in --columns"
            )
        step = float(np.median(np.diff(times)))
        self.rate_hz = 1 / step
        self._watts = current * (table[3] if columns[3] else float(volts or 0))
        self._levels = (level >= threshold).astype(np.uint8)
        # Where time jumps, the numbers of the samples jump too.
        self._first = np.round((times - times[0]) / step).astype(np.int64)
        jumps = np.flatnonzero(np.abs(np.diff(times) / step - 1) > TOLERANCE) + 1
        self._parts = list(np.split(np.arange(len(times)), jumps))
        self._before: int | None = None

    def __enter__(self) -> CsvMeter:
        """Nothing to connect."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def read(self, timeout_s: float) -> Chunk | None:
        """The samples up to the next gap."""
        if not self._parts:
            return None
        part = self._parts.pop(0)
        first = int(self._first[part[0]])
        edges = falling(self._levels[part], first, self._before)
        self._before = int(self._levels[part[-1]])
        return Chunk(first, self._watts[part], edges)

    @property
    def ended(self) -> bool:
        """Whether all was read."""
        return not self._parts

    def identity(self) -> str:
        """The file's name."""
        return self.path.name


def _columns(path: Path, names: list[str]) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            head = [cell.strip() for cell in next(reader, [])]
            missing = [name for name in names if name not in head]
            if missing:
                raise CgateError(
                    f"{path} has no column {missing[0]!r}, only {', '.join(head) or 'nothing'}",
                    "name the columns: --columns TIME,CURRENT,EDGE[,VOLTAGE]",
                )
            where = [head.index(name) for name in names]
            rows = []
            for number, row in enumerate(reader, 2):
                try:
                    rows.append([float(row[i]) for i in where])
                except (ValueError, IndexError) as error:
                    raise CgateError(f"{path}, line {number}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CgateError(f"cannot read {path}: {error}") from error
    table = np.array(rows, np.float64).reshape(-1, len(names))
    return [table[:, i] for i in range(len(names))]

"""Energy between two falling edges, and what makes such a window worthless."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cgate.host_tools.meters.samples import Chunk

MIN_SECONDS = 10.0
"""Shorter windows are not valid; MLPerf Tiny's rule."""


@dataclass(frozen=True)
class Window:
    """One measurement.

    Args:
        seconds: between the edges.
        joules: of that time.
        samples: how many it was made of.
        fault: why it must not be used; empty if it is valid.
    """

    seconds: float
    joules: float
    samples: int
    fault: str = ""

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


class Collector:
    """Turns chunks into windows: an edge opens one, the next closes it.

    Where samples are lost, an edge may be, too. Unless something sees to it that windows begin
    anew (`drop`), none is valid after that: what looks like a window may be the time between two.
    """

    def __init__(self, rate_hz: float, min_seconds: float = MIN_SECONDS) -> None:
        self.rate_hz = rate_hz
        self.min_seconds = min_seconds
        self._expected: int | None = None
        self._begin: int | None = None
        self._joules = 0.0
        self._faults: list[str] = []
        self._seen_edge = self._lost_edge = False
        self._known = True  # the last sample

    @property
    def open(self) -> bool:
        """Whether a window has begun and not ended."""
        return self._begin is not None

    def drop(self) -> None:
        """Forget the window that has begun, and all doubts: the next edge begins a window."""
        self._begin = None
        self._seen_edge = self._lost_edge = False

    def feed(self, chunk: Chunk) -> list[Window]:
        """Take samples; returns the windows that ended in them."""
        if self._expected is not None and chunk.first != self._expected:
            self._lost()
        self._expected = chunk.end
        windows = []
        at = chunk.first
        # An edge behind the last sample belongs to the moment at its end.
        for edge in (*sorted(chunk.edges), None):
            end = chunk.end if edge is None else min(max(edge, at), chunk.end)
            self._add(chunk, at, end)
            at = end
            if edge is None:
                break
            if self._begin is None:
                self._open(edge)
            else:
                windows.append(self._close(edge))
        return windows

    def _add(self, chunk: Chunk, start: int, end: int) -> None:
        if end <= start:
            return
        watts = chunk.watts[start - chunk.first : end - chunk.first]
        unknown = np.isnan(watts)
        if unknown.any():
            self._lost()
        self._known = not unknown[-1]
        if self._begin is None:
            return
        if chunk.overflow:
            self._fault("the power was beyond the meter's range")
        self._joules += float(np.nansum(watts)) / self.rate_hz

    def _lost(self) -> None:
        self._known = False
        self._lost_edge = self._lost_edge or self._seen_edge
        self._fault("samples were lost")

    def _fault(self, what: str) -> None:
        if self._begin is not None and what not in self._faults:
            self._faults.append(what)

    def _open(self, edge: int) -> None:
        self._begin, self._joules, self._faults = edge, 0.0, []
        self._seen_edge = True
        if not self._known:
            self._fault("samples were lost at its beginning")
        if self._lost_edge:
            self._fault("samples were lost before it, and perhaps an edge")

    def _close(self, edge: int) -> Window:
        assert self._begin is not None
        samples = edge - self._begin
        seconds = samples / self.rate_hz
        if seconds < self.min_seconds:
            self._fault(
                f"{seconds:.3f} s is shorter than {self.min_seconds:g} s: more iterations are due"
            )
        self._begin = None
        return Window(seconds, self._joules, samples, "; ".join(self._faults))

"""Joulescope JS110 and JS220, by the library joulescope."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np

from cgate.core.errors import EXIT_TARGET_FAILED, CgateError
from cgate.host_tools.meters.samples import Chunk, falling, gone

FIELDS = ["power", "current_range", "current_lsb"]
_OFF_RANGE = 7
_PATIENCE_S = 2.0


def find_device() -> Any:
    """The only Joulescope that is connected, not yet open.

    Raises:
        CgateError: there is none, or more than one (exit code 4).
    """
    import joulescope

    try:
        return joulescope.scan_require_one(config="off")
    except RuntimeError as error:
        raise CgateError(
            f"no Joulescope can be used: {error}",
            "connect exactly one, and close the Joulescope application",
            EXIT_TARGET_FAILED,
        ) from error


class Joulescope:
    """Power at 100 kHz in the board's supply line; edges from input IN0."""

    name = "joulescope"
    volts: float | None = None

    def __init__(self, device: Any, rate_hz: float = 100_000.0) -> None:
        self._device = device
        self.rate_hz = rate_hz
        self._next: int | None = None
        self._origin = 0
        self._level: int | None = None
        self._heard = 0.0

    def __enter__(self) -> Joulescope:
        """Open, pass the supply through, start."""
        try:
            self._device.open()
            for name, value in (
                ("sampling_frequency", round(self.rate_hz)),
                ("buffer_duration", 15),
                ("i_range", "auto"),
                ("v_range", "15V"),
                ("current_lsb", "gpi0"),
            ):
                self._device.parameter_set(name, value)
            self._device.start()
        except Exception as error:  # the driver raises whatever its USB layer does
            with contextlib.suppress(Exception):
                self._device.close()
            raise gone("Joulescope", error) from error
        self._heard = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop and close."""
        for action in (self._device.stop, self._device.close):
            with contextlib.suppress(Exception):  # it may have gone
                action()

    def read(self, timeout_s: float) -> Chunk | None:
        """What the library's buffer holds behind the last sample that was read."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                chunk = self._chunk()
            except Exception as error:  # as in __enter__
                raise gone("Joulescope", error) from error
            if chunk is not None:
                return chunk
            if time.monotonic() - self._heard > _PATIENCE_S:
                raise gone("Joulescope", f"no sample came for {_PATIENCE_S:g} s")
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)

    def _chunk(self) -> Chunk | None:
        buffer = self._device.stream_buffer
        start, end = buffer.sample_id_range
        if start is None:
            return None
        if self._next is None:
            self._next = self._origin = start
        # Samples that the buffer has already dropped are missing from the numbers.
        first = max(self._next, start)
        if end <= first:
            return None
        self._heard = time.monotonic()
        self._next = end
        signals = buffer.samples_get(first, end, fields=FIELDS)["signals"]
        watts = np.array(signals["power"]["value"], np.float64)
        levels = np.array(signals["current_lsb"]["value"]).astype(np.uint8)
        # The level of a lost sample is not known; it keeps the last one.
        known = np.maximum.accumulate(np.where(np.isnan(watts), 0, np.arange(len(levels))))
        levels = levels[known]
        number = first - self._origin
        edges = falling(levels, number, self._level)
        self._level = int(levels[-1])
        off = np.array(signals["current_range"]["value"]) >= _OFF_RANGE
        return Chunk(number, watts, edges, bool((off & ~np.isnan(watts)).any()))

    @property
    def ended(self) -> bool:
        """Never: it measures until it is stopped."""
        return False

    def identity(self) -> str:
        """Model and serial number."""
        return str(self._device)

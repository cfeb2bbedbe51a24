"""Nordic Power Profiler Kit II, by the library ppk2-api."""

from __future__ import annotations

import time

import numpy as np

from cgate.core.errors import EXIT_TARGET_FAILED, CgateError
from cgate.host_tools.meters.samples import Chunk, falling, gone

MICRO = 1e-6
# Fields of a sample's 32 bits. The library leaves the counter aside; it is what shows losses.
_RANGE, _COUNTER, _LOGIC = 14, 18, 24
_ADC_MAX, _TOP_RANGE = 0x3FFF, 4
_COUNTS = 64
_PATIENCE_S = 2.0


class Ppk2:
    """Current at 100 kHz while it supplies the board; edges from its logic port."""

    name = "ppk2"
    rate_hz = 100_000.0

    def __init__(self, port: str, volts: float, channel: int = 0) -> None:
        self.port = port
        self.volts: float | None = volts
        self.channel = channel
        self._count = 0
        self._counter: int | None = None
        self._level: int | None = None
        self._rest = b""
        self._heard = 0.0

    def __enter__(self) -> Ppk2:
        """Read the calibration, switch the supply on, start."""
        import serial
        from ppk2_api.ppk2_api import PPK2_API

        try:
            self._api = PPK2_API(self.port, timeout=1, write_timeout=1, exclusive=True)
        except (serial.SerialException, OSError) as error:
            raise CgateError(
                f"cannot open the PPK2 on {self.port}: {error}",
                "see that no other program uses it",
                EXIT_TARGET_FAILED,
            ) from error
        if not self._api.get_modifiers():
            raise gone("PPK2", f"no calibration came from {self.port}; is it the right port?")
        assert self.volts is not None
        self._api.set_source_voltage(round(self.volts * 1000))
        self._api.use_source_meter()
        self._api.toggle_DUT_power("ON")
        self._api.start_measuring()
        self._heard = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; the supply stays on."""
        self._api.stop_measuring()  # logs and goes on where the port has gone
        self._api.ser.close()

    def read(self, timeout_s: float) -> Chunk | None:
        """What has arrived."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                data = self._rest + self._api.get_data()
            except (OSError, TypeError) as error:
                raise gone("PPK2", error) from error
            whole = len(data) // 4 * 4
            self._rest = data[whole:]
            if whole:
                self._heard = time.monotonic()
                return self._chunk(data[:whole])
            if time.monotonic() - self._heard > _PATIENCE_S:
                raise gone("PPK2", f"no sample came for {_PATIENCE_S:g} s")
            if time.monotonic() > deadline:
                return None
            time.sleep(0.002)

    def _chunk(self, data: bytes) -> Chunk:
        words = np.frombuffer(data, "<u4")
        microamperes, bits = self._api.get_samples(data)
        watts = np.array(microamperes, np.float64) * MICRO * float(self.volts or 0)
        levels = ((np.array(bits, np.uint8) >> self.channel) & 1).astype(np.uint8)
        counters = (words >> _COUNTER & (_COUNTS - 1)).astype(np.int64)
        before = counters[0] - 1 if self._counter is None else self._counter
        lost = (np.diff(counters, prepend=before) - 1) % _COUNTS
        # Unknown samples in the place of lost ones keep the numbering, and the time.
        places = np.arange(len(words)) + np.cumsum(lost)
        filled = np.full(len(words) + int(lost.sum()), np.nan)
        filled[places] = watts
        held = levels[np.searchsorted(places, np.arange(len(filled)))]
        overflow = ((words & _ADC_MAX) == _ADC_MAX) & ((words >> _RANGE & 7) >= _TOP_RANGE)
        first, self._count = self._count, self._count + len(filled)
        edges = falling(held, first, self._level)
        self._counter, self._level = int(counters[-1]), int(levels[-1])
        return Chunk(first, filled, edges, bool(overflow.any()))

    @property
    def ended(self) -> bool:
        """Never: it measures until it is stopped."""
        return False

    def identity(self) -> str:
        """Hardware revision, as its calibration says."""
        return f"HW {self._api.modifiers['HW']}"

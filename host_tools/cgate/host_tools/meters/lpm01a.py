"""ST X-NUCLEO-LPM01A (PowerShield), by its serial protocol (user manual UM2243)."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

import numpy as np

from cgate.core.errors import EXIT_TARGET_FAILED, CgateError
from cgate.host_tools.meters.samples import Chunk, gone
from cgate.host_tools.serial_link import open_port

if TYPE_CHECKING:
    import serial

BAUD = 3_686_400
ANSWER_S = 5.0
_PATIENCE_S = 3.0  # there is a time stamp every second
_PROMPT = "PowerShield >"
_VALUE = re.compile(r"(\d{4})([+-]\d{2})")
_TIMESTAMP = re.compile(r"TimeStamp: *[<>]?(\d+)s (\d+)ms, buff (\d+)%")
_EVENT = re.compile(r"event \d+ (ris|fal)")


class Lpm01a:
    """Energy per millisecond, integrated by the meter; edges from its input D7."""

    name = "lpm01a"
    rate_hz = 1000.0

    def __init__(self, port: str, volts: float) -> None:
        self.port = port
        self.volts: float | None = volts
        self._link: serial.Serial | None = None
        self._text = ""
        self._count = 0
        self._identity = ""
        self._stamp: int | None = None
        self._heard = 0.0
        self._watts: list[float] = []  # since the last time stamp
        self._edges: list[int] = []
        self._waiting: list[str] = []  # lines that were not looked at yet

    def __enter__(self) -> Lpm01a:
        """Take control, switch the supply on, start."""
        self._link = open_port(self.port, BAUD)
        try:
            self._command("htc")
            self._identity = self._command("version")
            for line in (
                "acqtime inf",
                "trigdelay 0",
                "trigsrc sw",
                "eventsrc d7 fal",
                "output energy",
                "format ascii_dec",
                f"freq {self.rate_hz / 1000:g}k",
                f"volt {round((self.volts or 0) * 1000)}m",
                "pwr on nostatus",
                "start",
            ):
                self._command(line)
            self._heard = time.monotonic()
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and hand control back; the supply stays on."""
        assert self._link is not None
        with contextlib.suppress(OSError):  # it has gone, which was said already
            self._link.write(b"stop\r\nhrc\r\n")
        self._link.close()

    def _command(self, line: str) -> str:
        """Send a command and wait for its acknowledgement; returns what it answers besides."""
        self._write(line)
        deadline = time.monotonic() + ANSWER_S
        said = []
        while time.monotonic() < deadline:
            for answer in self._lines(0.1):
                if answer.startswith("ack") and line in answer:
                    said.append(answer.replace("ack", "", 1).replace(line, "", 1).strip())
                    return " ".join(word for word in said if word)
                if answer.startswith("error"):
                    raise CgateError(
                        f"the LPM01A refuses {line!r}: {answer}",
                        "voltages are 1.8 to 3.3 V",
                        EXIT_TARGET_FAILED,
                    )
                said.append(answer)
        raise gone("LPM01A", f"no answer to {line!r} on {self.port}")

    def _write(self, line: str) -> None:
        assert self._link is not None
        try:
            self._link.write(f"{line}\r\n".encode())
        except OSError as error:
            raise gone("LPM01A", error) from error

    def _lines(self, timeout_s: float) -> list[str]:
        """Complete lines, without prompts; waits for some."""
        assert self._link is not None
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                data = self._link.read(1 << 16)
            except (OSError, TypeError) as error:
                raise gone("LPM01A", error) from error
            self._text += data.decode("ascii", "replace").replace("\0", "")
            *lines, self._text = re.split(r"[\r\n]+", self._text)
            found = [line.replace(_PROMPT, "").strip() for line in lines]
            found = [line for line in found if line]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.005)

    def read(self, timeout_s: float) -> Chunk | None:
        """What lies between the last two time stamps, a second apart.

        A time stamp tells how many samples there should have been. Where some are missing, which
        ones is not known, so all since the stamp before count as lost. Before the first stamp
        nothing can be checked, and nothing is used.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self._waiting:
                self._waiting = self._lines(deadline - time.monotonic())
            while self._waiting:
                line = self._waiting.pop(0)
                if (stamp := _TIMESTAMP.match(line)) is None:
                    self._take(line)
                else:
                    self._heard = time.monotonic()
                    if (chunk := self._checked(stamp)) is not None:
                        return chunk
        if time.monotonic() - self._heard > _PATIENCE_S:
            raise gone("LPM01A", f"no time stamp came for {_PATIENCE_S:g} s")
        return None

    def _take(self, line: str) -> None:
        if values := _VALUE.findall(line):
            self._watts += [float(f"{m}e{e}") * self.rate_hz for m, e in values]
            if _VALUE.sub("", line).strip():
                self._watts.append(float("nan"))  # a damaged value beside whole ones
        elif _EVENT.match(line):
            self._edges.append(len(self._watts))
        elif line.lower().startswith("error"):
            raise CgateError(
                f"the LPM01A stopped: {line}",
                "it supplies 50 mA at most; see that the board draws no more",
                EXIT_TARGET_FAILED,
            )
        elif line[:1].isdigit():
            self._watts.append(float("nan"))

    def _checked(self, stamp: re.Match[str]) -> Chunk | None:
        seconds, millis, full = (int(part) for part in stamp.groups())
        now = round((seconds + millis / 1000) * self.rate_hz)
        before, self._stamp = self._stamp, now
        watts, edges, first = np.array(self._watts), self._edges, self._count
        self._watts, self._edges = [], []
        if before is None:
            return None
        if len(watts) != now - before or full >= 100 or np.isnan(watts).any():
            watts = np.full(max(now - before, len(watts), 1), np.nan)
        self._count += len(watts)
        return Chunk(first, watts, tuple(first + edge for edge in edges))

    @property
    def ended(self) -> bool:
        """Never: it measures until it is stopped."""
        return False

    def identity(self) -> str:
        """Firmware version."""
        return self._identity

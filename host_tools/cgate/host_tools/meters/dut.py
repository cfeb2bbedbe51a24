"""The board under test: has MLPerf's program, in energy mode, run a window."""

from __future__ import annotations

import contextlib
import re
import termios
import time
from collections.abc import Iterator

from cgate.core.errors import EXIT_TARGET_FAILED, CgateError
from cgate.host_tools.build import ENERGY_BAUD
from cgate.host_tools.meters.samples import gone
from cgate.host_tools.serial_link import open_port

_CHUNK = 26


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """What a serial port raises when its cable is pulled, as ours."""
    try:
        yield
    except (OSError, TypeError, termios.error) as error:
        raise gone("board", error) from error


class Dut:
    """Sends `infer` and does not wait: the meter sees when it is done."""

    def __init__(self, port: str, iterations: int, timeout_s: float = 10.0) -> None:
        self.iterations = iterations
        self.timeout_s = timeout_s
        self._link = open_port(port, ENERGY_BAUD)
        self._loaded = False

    def run(self) -> None:
        """Begin a window of `iterations` inferences on an input of mid-grey.

        Raises:
            CgateError: no answer, or not the right program (exit code 4).
        """
        if not self._loaded:
            self._load()
        self._send(f"infer {self.iterations} 0")

    def _send(self, command: str) -> None:
        with _faults():
            self._link.reset_input_buffer()
            self._link.write(f"{command}%".encode())

    def _load(self) -> None:
        # A wrong size is answered by the right one. Three times, as MLPerf's runner does: the
        # first answers may be what the board says when it starts.
        words: list[str] = []
        for _ in range(3):
            answer = self._ask("db load 1")
            words = words or re.findall(r"The input has (\d+) bytes", answer)
        if not words:
            raise CgateError(
                f"the board answers {answer.strip()!r}",
                "flash the program: cgate flash BUNDLE --board NAME --app mlperf-energy",
                EXIT_TARGET_FAILED,
            )
        size = int(words[0])
        self._ask(f"db load {size}")
        for start in range(0, size, _CHUNK):
            answer = self._ask(f"db {'80' * min(_CHUNK, size - start)}")
        self._loaded = "m-load-done" in answer
        if not self._loaded:
            raise CgateError(
                f"the board did not take its input: it answers {answer.strip()!r}",
                "reset the board and repeat the command; what was measured is kept",
                EXIT_TARGET_FAILED,
            )

    def _ask(self, command: str) -> str:
        self._send(command)
        return self.wait(self.timeout_s)

    def wait(self, timeout_s: float) -> str:
        """The board's answer up to "m-ready".

        Raises:
            CgateError: it does not end in time (exit code 4).
        """
        data, deadline = b"", time.monotonic() + timeout_s
        while b"m-ready" not in data:
            if time.monotonic() > deadline:
                raise CgateError(
                    f"the board does not answer within {timeout_s:g} s",
                    "flash the program: cgate flash BUNDLE --board NAME --app mlperf-energy",
                    EXIT_TARGET_FAILED,
                )
            with _faults():
                data += self._link.read(1 << 12)
            time.sleep(0.005)
        return data.decode("ascii", "replace")

    def close(self) -> None:
        """Give the port back."""
        self._link.close()

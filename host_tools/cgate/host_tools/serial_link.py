"""Talking to a program over a serial line: a board's port, or one that Renode makes."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cgate.core.board import Board
from cgate.core.errors import EXIT_TARGET_FAILED, EXIT_TOOL_MISSING, CgateError
from cgate.core.targets import Target
from cgate.host_tools.build import BAUD, Build
from cgate.host_tools.runner import START_TIMEOUT_S, Session
from cgate.host_tools.toolchain import Tool, find
from cgate.host_tools.wire import INFO, Frame, Info, encode

if TYPE_CHECKING:
    import serial

RENODE = Tool("renode", "", "emulate boards that QEMU does not have")
RENODE_INSTALL = "get Renode from https://renode.io (portable release) and put it on the PATH"
_PADDING = bytes(4096)
_PATIENCE_S = 1.0


def ports(board: Board | None = None) -> list[str]:
    """Serial ports of this computer, those of the board's USB adapter first and alone if any."""
    from serial.tools import list_ports

    found = sorted(list_ports.comports(), key=lambda port: str(port.device))
    ids = {port.device: f"{port.vid or 0:04x}:{port.pid or 0:04x}" for port in found}
    known = board.usb.split() if board else []
    fitting = [device for device, name in ids.items() if name in known]
    return fitting or [device for device, name in ids.items() if name != "0000:0000"]


def choose_port(port: str, board: Board | None = None) -> str:
    """`port` itself, or for "auto" the only one that can be meant.

    Raises:
        CgateError: "auto", and there is none or more than one (exit code 4).
    """
    if port != "auto":
        return port
    found = ports(board)
    if len(found) == 1:
        return found[0]
    raise CgateError(
        f"more than one serial port could be the board: {', '.join(found)}"
        if found
        else "no USB serial port is connected",
        f"name it, as in --port {found[0] if found else '/dev/ttyACM0'}"
        + (f"; the board's UART is {board.serial}" if board else ""),
        EXIT_TARGET_FAILED,
    )


def open_port(path: str, baud: int) -> serial.Serial:
    """A serial port, 8N1, raw, for nobody else.

    Raises:
        CgateError: it is not there, is in use or may not be opened (exit code 4).
    """
    import serial

    try:
        return serial.Serial(path, baud, timeout=0, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        raise CgateError(
            f"cannot open {path}: {error}",
            "see that the board is connected, that no other program uses the port, and that you "
            "may: sudo usermod -aG dialout $USER",
            EXIT_TARGET_FAILED,
        ) from error


class SerialSession(Session):
    """A program on a board that runs already, and goes on running afterwards."""

    def __init__(self, build: Build, port: str, stop: threading.Event | None = None) -> None:
        super().__init__(build, stop)
        self.port = port

    def _start(self) -> None:
        link = self._cleanup.enter_context(open_port(self.port, BAUD))
        # Two descriptors, because a selector takes each only once.
        self._to, self._from = link.fileno(), os.dup(link.fileno())
        self._cleanup.callback(os.close, self._from)
        os.set_blocking(self._to, False)

    def _ready(self) -> bool:
        return True  # `info` finds out

    def _read(self) -> bytes:
        try:
            data = super()._read()
        except OSError as error:
            raise self._gone() from error
        if not data and self._hung_up():
            raise self._gone()
        return data

    def _write(self, data: memoryview) -> int:
        try:
            return super()._write(data)
        except OSError as error:
            raise self._gone() from error

    def _hung_up(self) -> bool:
        """Whether an empty read means the end; select had said that there was something."""
        poll = select.poll()
        poll.register(self._from, 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))

    def _gone(self) -> CgateError:
        return CgateError(
            f"{self.port} has gone: the cable was pulled or the board lost its power",
            "connect it again and repeat the command",
            EXIT_TARGET_FAILED,
        )

    def info(self) -> Info:
        """As `Session.info`, after finding the program at whatever point it is.

        An earlier command may have ended in the middle of a request; zeros complete it.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        padding = b""
        while time.monotonic() < deadline:
            if self._answers(padding):
                return super().info()
            padding = _PADDING
        raise CgateError(
            f"no answer on {self.port}",
            f"flash the program first: cgate flash BUNDLE --board {self._board_name()}, "
            "and see that the UART is wired",
            EXIT_TARGET_FAILED,
        )

    def _answers(self, padding: bytes) -> bool:
        """Whether an info request, after `padding`, is answered; drops all that comes with it."""
        data = memoryview(padding + encode(Frame(INFO)))
        heard, quiet_since = False, time.monotonic()
        while time.monotonic() - quiet_since < (0.2 if heard else _PATIENCE_S):
            if self._stop.is_set():
                break
            if data:
                sent = self._write(data)
                data = data[sent:]
                quiet_since = time.monotonic() if sent else quiet_since
            received = self._read()
            if received:
                quiet_since = time.monotonic()
                heard = any(f.type == b"i" for f in self._decoder.feed(received)) or heard
            else:
                time.sleep(0.005)
        return heard

    def finish(self) -> None:
        """Nothing: the board keeps serving, and counts no instructions."""

    def _board_name(self) -> str:
        return self.build.target.name if self.build.target else "NAME"


def renode_script(target: Target, program: Path, pty: Path) -> str:
    """The script that boots `program` in Renode, its UART on a pseudo-terminal at `pty`.

    Raises:
        CgateError: Renode ships no platform for this target.
    """
    if target.board is None or not target.board.renode:
        raise CgateError(
            f"no Renode platform is known for {target.name}",
            "run on one that has one, such as --target stm32f4discovery",
        )
    return (
        f'mach create "{target.name}"\n'
        f"machine LoadPlatformDescription @{target.board.renode}\n"
        f'emulation CreateUartPtyTerminal "uart" "{pty}"\n'
        f"connector Connect {target.board.renode_uart} uart\n"
        f"sysbus LoadELF @{program}\n"
        f"cpu VectorTableOffset {target.flash.origin:#x}\n"
        "start\n"
    )


class RenodeSession(SerialSession):
    """A program in Renode; its instructions are not counted."""

    def __init__(self, build: Build, stop: threading.Event | None = None) -> None:
        super().__init__(build, "", stop)

    def _start(self) -> None:
        try:
            renode = find(RENODE)
        except CgateError as error:
            raise CgateError(error.message, RENODE_INSTALL, EXIT_TOOL_MISSING) from error
        assert self.build.target is not None
        folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cgate-")))
        pty, script = folder / "uart", folder / "run.resc"
        script.write_text(renode_script(self.build.target, self.build.program, pty))
        self._log = self._cleanup.enter_context((folder / "log").open("w+b"))
        self._process = subprocess.Popen(
            [renode, "--disable-xwt", "--console", "--plain", script],
            cwd=folder,
            stdin=subprocess.PIPE,  # it ends with its console
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not pty.exists():
            if self._ended():
                raise self._crash()
            if time.monotonic() > deadline:
                raise self._timeout(START_TIMEOUT_S)
            time.sleep(0.05)
        self.port = str(pty)
        super()._start()


def session_on(on: str, port: str, target: Target) -> Callable[[Build, threading.Event], Session]:
    """What makes sessions on "renode", or on "serial" at `port` ("auto" for the only one).

    Raises:
        CgateError: "auto" is not clear.
    """
    if on == "renode":
        return RenodeSession
    chosen = choose_port(port, target.board)

    def open_serial(build: Build, stop: threading.Event) -> Session:
        session = SerialSession(build, chosen, stop)
        session.timed = True
        return session

    return open_serial

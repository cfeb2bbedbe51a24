"""Writing a program into a board, with whichever tool is installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cgate.core.board import Board
from cgate.core.errors import EXIT_TARGET_FAILED, EXIT_TOOL_MISSING, CgateError
from cgate.core.targets import Target

TIMEOUT_S = 180


@dataclass(frozen=True)
class Flasher:
    """A flashing tool: its command for a board and a program, and how to get it."""

    name: str
    command: Callable[[Board, Path], list[str]]
    install: str


def _openocd(board: Board, program: Path) -> list[str]:
    files = [word for name in board.openocd.split() for word in ("-f", name)]
    # Tcl reads the braces as quotes; the path may hold spaces.
    return ["openocd", *files, "-c", f"program {{{program}}} verify reset exit"]


FLASHERS = (
    Flasher(
        "pyocd",
        lambda board, program: ["pyocd", "flash", "--target", board.pyocd, str(program)],
        "pip install pyocd",
    ),
    Flasher(
        "probe-rs",
        lambda board, program: ["probe-rs", "download", "--chip", board.probe_rs, str(program)],
        "cargo install probe-rs-tools --locked",
    ),
    Flasher("openocd", _openocd, "sudo apt-get install --no-install-recommends openocd"),
)
TOOLS = tuple(flasher.name for flasher in FLASHERS)


def flash_command(target: Target, program: Path, tool: str | None = None) -> list[str]:
    """The command that writes `program` into the board and lets it run.

    Args:
        tool: one of TOOLS; None takes the first that is installed, or the first of all.

    Raises:
        CgateError: the target is no board.
    """
    if target.board is None:
        raise CgateError(
            f"{target.name} is no board that can be flashed",
            "name one that is, such as --board nucleo-l4r5zi; `cgate targets` lists all",
        )
    installed = [flasher for flasher in FLASHERS if shutil.which(flasher.name)]
    by_name = {flasher.name: flasher for flasher in FLASHERS}
    flasher = by_name[tool] if tool else (installed or FLASHERS)[0]
    return flasher.command(target.board, program)


def run_flash(command: list[str]) -> None:
    """Run a command of `flash_command`, and reset the board where the tool does not.

    Raises:
        CgateError: the tool is missing (3), or fails or hangs (4).
    """
    name = command[0]
    if shutil.which(name) is None:
        others = ", or ".join(flasher.install for flasher in FLASHERS)
        raise CgateError(
            f"{name} is needed to flash a board, and is not installed", others, EXIT_TOOL_MISSING
        )
    _run_tool(command)
    if name == "probe-rs":
        _run_tool(["probe-rs", "reset", "--chip", command[3]])


def _run_tool(command: list[str]) -> None:
    name = command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CgateError(
            f"{name} did not end within {TIMEOUT_S} s",
            "unplug the board, plug it in again, and run the command again",
            EXIT_TARGET_FAILED,
        ) from error
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        hint = "see that the board is connected and that you may use USB devices"
        if name == "pyocd":
            hint += f"; if pyocd does not know the chip, `pyocd pack install {command[3]}`"
        raise CgateError(
            f"{shlex.join(command)} failed with exit code {done.returncode}:\n{said}",
            hint,
            EXIT_TARGET_FAILED,
        )

"""A program under QEMU whose UART is a pseudo-terminal, as a board's serial port would be."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from cgate.core.targets import Target
from cgate.host_tools.toolchain import QEMU, find


@contextlib.contextmanager
def qemu_on_pty(target: Target, program: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Path of the terminal and QEMU's process id; QEMU has ended afterwards."""
    log = folder / "qemu-output"
    command: list[str | Path] = [
        find(QEMU),
        "-M",
        target.qemu_machine,
        "-nodefaults",
        "-display",
        "none",
    ]
    command += ["-kernel", program, "-chardev", "pty,id=uart", "-serial", "chardev:uart"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while (found := re.search(r"redirected to (\S+)", log.read_text())) is None:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield found[1], process.pid
    finally:
        process.kill()
        process.wait()

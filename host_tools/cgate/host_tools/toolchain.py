"""Finding what is needed outside Python: compilers, the emulator, the firmware sources."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cgate.core.errors import EXIT_TOOL_MISSING, CgateError


@dataclass(frozen=True)
class Tool:
    """A program.

    Args:
        name: as called.
        packages: Debian and Ubuntu packages that have it.
        purpose: what cgate needs it for, as the end of "... is needed to ...".
        low: the first version that will do; empty if all do.
        below: the first version that is too new; empty if none is.
    """

    name: str
    packages: str
    purpose: str
    low: str = ""
    below: str = ""

    @property
    def wanted(self) -> str:
        """The versions that will do, in words."""
        parts = [f">= {self.low}"] * bool(self.low) + [f"< {self.below}"] * bool(self.below)
        return ", ".join(parts) or "any"

    @property
    def install(self) -> str:
        """The command that installs it on Debian and Ubuntu."""
        return f"sudo apt-get install --no-install-recommends {self.packages}"


_ARM_PACKAGES = "gcc-arm-none-eabi libnewlib-arm-none-eabi"
# -fcallgraph-info, which bounds the stack, came with GCC 10.
ARM_GCC = Tool("arm-none-eabi-gcc", _ARM_PACKAGES, "compile for Cortex-M", "10")
ARM_SIZE = Tool("arm-none-eabi-size", _ARM_PACKAGES, "measure the program")
ARM_NM = Tool("arm-none-eabi-nm", _ARM_PACKAGES, "list the functions of a program")
ARM_ADDR2LINE = Tool("arm-none-eabi-addr2line", _ARM_PACKAGES, "name where a fault happened")
# mps3-an547 came with 6.0; plugins for interface version 1, such as cgate's, ended with 8.2.
QEMU = Tool("qemu-system-arm", "qemu-system-arm", "run Cortex-M programs", "6.0", "9")
HOST_CC = Tool("cc", "gcc libc6-dev", "compile for this computer")
TOOLS = (ARM_GCC, QEMU, HOST_CC)
"""What `cgate doctor` lists; the others come with ARM_GCC."""


def find(tool: Tool) -> Path:
    """Where `tool` is installed.

    Raises:
        CgateError: it is not on the PATH (exit code 3, with the command that installs it).
    """
    path = shutil.which(tool.name)
    if path is None:
        raise CgateError(
            f"{tool.name} is needed to {tool.purpose}, and is not installed",
            tool.install,
            EXIT_TOOL_MISSING,
        )
    return Path(path)


@cache
def version(tool: Tool) -> str:
    """The first line of `tool --version`."""
    result = subprocess.run([find(tool), "--version"], capture_output=True, text=True, check=False)
    return result.stdout.partition("\n")[0].strip()


def firmware_folder() -> Path:
    """The C sources: inside an installed package, or in the checkout.

    Raises:
        CgateError: neither is there, which means a broken installation.
    """
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "_firmware", here.parents[3] / "firmware"):
        if (folder / "include" / "cgate.h").is_file():
            return folder
    raise CgateError("cgate's firmware sources are missing", "install cgate again")

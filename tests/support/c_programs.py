"""Compiling and running small C programs for tests."""

import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cgate.core.targets import find_target
from cgate.host_tools.build import WARNINGS, target_link_flags
from cgate.host_tools.plugin import Counts, read_counts
from cgate.host_tools.runner import COUNTS, qemu_command
from cgate.host_tools.toolchain import ARM_GCC, HOST_CC, find, firmware_folder

FIRMWARE = firmware_folder()
PORT = FIRMWARE / "port"
INCLUDES = [f"-I{FIRMWARE / folder}" for folder in ("include", "port", "src/ref")]
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
STRICT = ("-std=c11", *WARNINGS, "-Werror")
QEMU_TIMEOUT_S = 120


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cgate-tests-")


def compile_host(name: str, sources: Sequence[Path], *flags: str) -> Path:
    """A program for this computer, under the address and undefined behaviour sanitizers."""
    program = Path(_folder().name) / name
    command: list[str | Path] = [
        find(HOST_CC),
        *STRICT,
        *SANITIZE,
        *INCLUDES,
        *flags,
        *sources,
        "-o",
        program,
    ]
    subprocess.run(command, check=True)
    return program


def compile_target(name: str, target_name: str, sources: Sequence[Path], *flags: str) -> Path:
    """A program for a target, with the start-up code and semihosting."""
    target = find_target(target_name)
    program = Path(_folder().name) / f"{name}-{target.name}.elf"
    files = [*sources, *sorted((PORT / "cortex_m").glob("*.c"))]
    command: list[str | Path] = [
        find(ARM_GCC),
        *target.cflags,
        *STRICT,
        "-O2",
        *INCLUDES,
        *flags,
        *files,
    ]
    subprocess.run([*command, *target_link_flags(target), "-o", program], check=True)
    return program


def run_host(program: Path, data: bytes = b"") -> bytes:
    """Stdout of `program`, given `data`; fails if it fails."""
    result = subprocess.run([program], input=data, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def run_target(
    program: Path, target_name: str, folder: Path, data: bytes = b"", units: int = 200
) -> tuple[bytes, Counts]:
    """What `program` writes under QEMU, given `data`, and what the plugin counted."""
    (folder / "requests").write_bytes(data)
    (folder / COUNTS).unlink(missing_ok=True)
    result = subprocess.run(
        qemu_command(find_target(target_name), program),
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=QEMU_TIMEOUT_S,
    )
    assert result.returncode == 0, result.stderr.decode()
    return (folder / "replies").read_bytes(), read_counts(folder / COUNTS, units)

"""The code that each kernel brings into a program, measured by linking it alone."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cgate.core.code import COLUMNS, FOLDER
from cgate.core.errors import CgateError
from cgate.core.files import write_bytes
from cgate.core.targets import CORE_FLAGS, core_features
from cgate.host_tools.build import ARM_FLAGS, ARM_LINK_FLAGS, COMMON_FLAGS
from cgate.host_tools.toolchain import ARM_GCC, ARM_NM, find, firmware_folder

_ROW = re.compile(r"^CG_KERNEL\((\w+), (\w+), (\w+)\)", re.MULTILINE)
_SYMBOL = re.compile(r"^[0-9a-f]+ ([0-9a-f]+) [tTrR] (\S+)$", re.MULTILINE)


def _run(command: Sequence[str | Path], folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CgateError(f"{Path(command[0]).name} failed:\n{result.stderr.strip()[:2000]}")
    return result.stdout


def kernel_code(core: str) -> Mapping[str, Mapping[str, int]]:
    """Bytes of every function and constant that a kernel needs, by kernel, as build.py compiles.

    Raises:
        CgateError: a tool is missing or fails.
    """
    firmware = firmware_folder()
    table = (firmware / "include" / "cg_kernels.inc").read_text(encoding="utf-8")
    flags = ("-mthumb", *CORE_FLAGS[core])
    # Adapters to other libraries are not among them: export does not choose those by itself.
    able = core_features(core)
    found: dict[str, Mapping[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="cgate-") as temporary:
        folder = Path(temporary)
        compile_flags = (*COMMON_FLAGS, *(flag for flag in ARM_FLAGS if flag.startswith("-O")))
        sources = sorted((firmware / "src").rglob("*.c"))
        _run(
            [find(ARM_GCC), *flags, *compile_flags, f"-I{firmware / 'include'}", "-c", *sources],
            folder,
        )
        objects = sorted(folder.glob("*.o"))
        for op, variant, need in _ROW.findall(table):
            if need not in able:
                continue
            entry = f"-Wl,-e,cg_{op}__{variant}"
            _run(
                [find(ARM_GCC), *flags, *ARM_LINK_FLAGS, entry, *objects, "-o", "kernel.elf"],
                folder,
            )
            symbols = _run([find(ARM_NM), "-S", "--defined-only", "kernel.elf"], folder)
            found[f"{op}__{variant}"] = {
                name: int(size, 16) for size, name in _SYMBOL.findall(symbols)
            }
    return found


def write_kernel_code(core: str) -> Path:
    """Measure a core's kernels and write their table; returns its place."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for kernel, symbols in sorted(kernel_code(core).items()):
        writer.writerows((kernel, *item) for item in sorted(symbols.items()))
    path = FOLDER / f"{core}.csv"
    write_bytes(path, text.getvalue().encode())
    return path

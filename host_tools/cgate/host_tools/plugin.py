"""The QEMU plugin that counts instructions and models cycles: how to call it, and its log."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import EXIT_TARGET_FAILED, EXIT_TOOL_MISSING, CgateError
from cgate.core.files import sha256, write_bytes
from cgate.core.targets import Target
from cgate.host_tools.toolchain import HOST_CC, find, firmware_folder, version

INFERENCE = 255
"""Marker id of a whole inference; smaller ids are unit indices."""

_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden")
_END, _OPEN = 0, 1

CLASSES = ("alu", "mul", "mac2", "simd", "div", "load", "store", "branch", "fp", "system")
"""Kinds of instructions that are counted apart, as firmware/plugin/cg_timing.h explains them."""

_RECORD = np.dtype(
    [
        ("kind", np.uint32),
        ("id", np.uint32),
        ("cycles", np.uint64),
        ("stalls", np.uint64),
        ("classes", np.uint64, len(CLASSES)),
    ]
)


def cache_folder() -> Path:
    """Where compiled helpers are kept: $XDG_CACHE_HOME/cgate, or ~/.cache/cgate."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is to be ignored, says the XDG base directory specification.
    return (root if root.is_absolute() else Path.home() / ".cache") / "cgate"


def plugin_library() -> Path:
    """The compiled plugin, made if this source, compiler and flags have not been seen before.

    Raises:
        CgateError: there is no C compiler, or it fails.
    """
    folder = firmware_folder() / "plugin"
    sources = sorted(folder.glob("*.c"))
    files = [*sources, *sorted(folder.glob("*.h"))]
    seen = [*_FLAGS, version(HOST_CC), *(sha256(path.read_bytes()) for path in files)]
    path = cache_folder() / f"cg_plugin-{sha256(chr(0).join(seen).encode())[:16]}.so"
    if path.is_file():
        return path
    compiler = find(HOST_CC)
    with tempfile.TemporaryDirectory(prefix="cgate-") as temporary:
        library = Path(temporary) / "cg_plugin.so"
        result = subprocess.run(
            [compiler, *_FLAGS, *sources, "-o", library],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise CgateError(
                f"the QEMU plugin does not compile:\n{result.stderr.strip()}",
                HOST_CC.install,
                EXIT_TOOL_MISSING,
            )
        write_bytes(path, library.read_bytes())
    return path


def flash_option(target: Target) -> str:
    """What the plugin must know about the target's flash, as the end of its option string."""
    access = target.flash_access
    if access is None:
        return ""
    numbers = (target.flash.origin, target.flash.size, *astuple(access))
    return ",flash=" + ":".join(str(int(number)) for number in numbers)


@dataclass(frozen=True)
class Tally:
    """Counts of regions; all arrays are int64 of one shape, `classes` has CLASSES as last axis.

    Args:
        instructions: executed, exact.
        cycles: modelled for a Cortex-M4, zero wait states; no figure for other cores.
        stalls: modelled cycles of waiting for the flash, beyond those.
        classes: instructions by class.
    """

    instructions: NDArray[np.int64]
    cycles: NDArray[np.int64]
    stalls: NDArray[np.int64]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """What the plugin saw in one run of QEMU.

    Args:
        by_unit: [inferences, units], 0 where a unit did not run.
        whole: [inferences], from the begin to the end of an inference.
        open: ids of the regions that were open when QEMU ended, outermost first.
    """

    by_unit: Tally
    whole: Tally
    open: tuple[int, ...]

    @property
    def units(self) -> NDArray[np.int64]:
        """Instructions per unit [inferences, units]."""
        return self.by_unit.instructions

    @property
    def total(self) -> NDArray[np.int64]:
        """Instructions per inference [inferences]."""
        return self.whole.instructions


def _tally(
    records: NDArray[np.void], place: tuple[NDArray[np.int64], ...], shape: tuple[int, ...]
) -> Tally:
    """Sums of records that belong to the same place."""

    def sums(column: str, *more: int) -> NDArray[np.int64]:
        table = np.zeros((*shape, *more), np.int64)
        np.add.at(table, place, records[column].astype(np.int64))
        return table

    classes = sums("classes", len(CLASSES))
    return Tally(classes.sum(axis=-1), sums("cycles"), sums("stalls"), classes)


def read_counts(path: Path, units: int) -> Counts:
    """Read the plugin's log.

    Args:
        units: number of units of the network.

    Raises:
        CgateError: the log is missing or not one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CgateError(
            f"QEMU left no instruction counts: {error.strerror}", "", EXIT_TARGET_FAILED
        ) from error
    records = np.frombuffer(data[: len(data) // _RECORD.itemsize * _RECORD.itemsize], _RECORD)
    ends = records[records["kind"] == _END]
    known = (records["id"] < units) | (records["id"] == INFERENCE)
    if not (known & (records["kind"] <= _OPEN)).all():
        raise CgateError(
            "the program's markers do not belong to this network",
            "build the bundle again",
            EXIT_TARGET_FAILED,
        )
    whole = ends["id"] == INFERENCE
    # A unit's record comes before the record of the inference it belongs to.
    inference = np.cumsum(whole) - whole
    count = int(whole.sum())
    part = ~whole & (inference < count)
    ids = ends["id"].astype(np.int64)
    still_open = records["id"][records["kind"] == _OPEN]
    return Counts(
        _tally(ends[part], (inference[part], ids[part]), (count, units)),
        _tally(ends[whole], (np.arange(count),), (count,)),
        tuple(int(i) for i in still_open),
    )

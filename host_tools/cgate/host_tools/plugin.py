"""The QEMU plugin that counts instructions: compiled at first use, and the log it writes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import EXIT_TARGET_FAILED, EXIT_TOOL_MISSING, CgateError
from cgate.core.files import sha256, write_bytes
from cgate.host_tools.toolchain import HOST_CC, find, firmware_folder, version

INFERENCE = 255
"""Marker id of a whole inference; smaller ids are unit indices."""

_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden")
_END, _OPEN = 0, 1
_RECORD = np.dtype([("kind", np.uint32), ("id", np.uint32), ("instructions", np.uint64)])


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
    sources = [folder / "cg_plugin.c", folder / "qemu_plugin.h"]
    seen = [*_FLAGS, version(HOST_CC), *(sha256(path.read_bytes()) for path in sources)]
    path = cache_folder() / f"cg_plugin-{sha256(chr(0).join(seen).encode())[:16]}.so"
    if path.is_file():
        return path
    compiler = find(HOST_CC)
    with tempfile.TemporaryDirectory(prefix="cgate-") as temporary:
        library = Path(temporary) / "cg_plugin.so"
        result = subprocess.run(
            [compiler, *_FLAGS, sources[0], "-o", library],
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


@dataclass(frozen=True)
class Counts:
    """What the plugin saw in one run of QEMU.

    Args:
        units: int64 [inferences, units], instructions per unit, 0 where it did not run.
        total: int64 [inferences], from the begin to the end of an inference.
        open: ids of the regions that were open when QEMU ended, outermost first.
    """

    units: NDArray[np.int64]
    total: NDArray[np.int64]
    open: tuple[int, ...]


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
    table = np.zeros((count, units), np.int64)
    part = ~whole & (inference < count)
    np.add.at(
        table,
        (inference[part], ends["id"][part]),
        ends["instructions"][part].astype(np.int64),
    )
    still_open = records["id"][records["kind"] == _OPEN]
    return Counts(
        table, ends["instructions"][whole].astype(np.int64), tuple(int(i) for i in still_open)
    )

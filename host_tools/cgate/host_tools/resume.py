"""A run over many images that goes on where Ctrl-C, a crash or a power cut stopped it.

Beside the trace to come lies `partial.jsonl`: a line that says which run it belongs to, then one
line per chunk of results. A line that was cut short counts for nothing.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.files import sha256, write_bytes, write_error
from cgate.core.progress import Progress
from cgate.host_tools import runner
from cgate.host_tools.build import Build
from cgate.host_tools.plugin import plugin_library
from cgate.host_tools.runner import Result

PARTIAL = "partial.jsonl"
CHUNK = 100
"""Images per process and chunk: what Ctrl-C can cost. Starting a process takes a tenth of a
second."""

_DTYPES = {"decisions": np.uint8, "logits": np.int8}


def _identity(
    build: Build, images: NDArray[np.int8], gates: str | NDArray[np.uint8]
) -> dict[str, Any]:
    """What must be the same for results to belong to one run."""
    return {
        "program": sha256(build.program.read_bytes()),
        "plugin": "" if build.target is None else plugin_library().name,
        "target": "" if build.target is None else build.target.name,
        "on": build.on,
        "io": build.io,
        "gates": gates if isinstance(gates, str) else gates.tolist(),
        "images": sha256(np.ascontiguousarray(images).tobytes()),
    }


def _to_json(result: Result) -> dict[str, Any]:
    value = {field.name: getattr(result, field.name) for field in fields(result)}
    del value["outputs"]
    return {
        name: item.tolist() if isinstance(item, np.ndarray) else item
        for name, item in value.items()
    }


def _from_json(value: Mapping[str, Any]) -> Result:
    arrays: dict[str, Any] = {
        name: np.array(item, _DTYPES.get(name, np.int64)) if isinstance(item, list) else item
        for name, item in value.items()
    }
    return Result(outputs=None, **arrays)


def _load(path: Path, identity: Mapping[str, Any]) -> list[Result]:
    """The results that `path` holds of this run; none if it is another's."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    results: list[Result] = []
    try:
        if json.loads(lines[0]) != identity:
            return []
        # What follows the last line end was cut short.
        for line in lines[1:-1]:
            results += [_from_json(each) for each in json.loads(line)]
    except (ValueError, TypeError):
        return results
    return results


def _append(path: Path, line: bytes) -> None:
    try:
        with path.open("ab") as stream:
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise write_error(path, error) from error


def run_resumable(
    folder: Path,
    build: Build,
    images: NDArray[np.int8],
    *,
    gates: str | NDArray[np.uint8],
    jobs: int | None,
    timeout_s: float,
    progress: Progress,
    open_session: Callable[[Build, threading.Event], runner.Session] = runner.Session,
) -> list[Result]:
    """`runner.run`, chunk by chunk; what an earlier call left in `folder` is not run again.

    The caller removes PARTIAL when it has kept the results.

    Args:
        folder: of the run; made if missing.
        gates: "learned", "open" or "shut" for all, or uint8 [gates] as `runner.run` takes per
            image.

    Raises:
        CgateError: as `runner.run` does, or the folder cannot be written.
    """
    path = folder / PARTIAL
    identity = _identity(build, images, gates)
    results = _load(path, identity)
    # Written anew, so that a line that was cut short does not stay in the middle.
    head = [identity, *([[_to_json(result) for result in results]] if results else [])]
    write_bytes(path, b"".join(json.dumps(line).encode() + b"\n" for line in head))
    if results:
        progress.message(f"going on after image {len(results):,} of {len(images):,}")
    where = "host" if build.target is None else build.target.name
    how = gates if isinstance(gates, str) else "held"
    progress.start(f"run on {where}, gates {how}", len(images))
    progress.advance(len(results))
    size = CHUNK * (jobs or os.cpu_count() or 1)
    try:
        while len(results) < len(images):
            part = images[len(results) : len(results) + size]
            made = runner.run(
                build,
                part,
                gates=gates if isinstance(gates, str) else np.tile(gates, (len(part), 1)),
                jobs=jobs,
                timeout_s=timeout_s,
                progress=_Within(progress),
                first=len(results),
                open_session=open_session,
            )
            _append(path, json.dumps([_to_json(result) for result in made]).encode())
            results += made
    except KeyboardInterrupt:
        progress.message(
            f"stopped with {len(results):,} of {len(images):,} images kept; the same command goes "
            "on there"
        )
        raise
    return results


class _Within:
    """Passes steps on to a stage that has begun already."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, stage: str, total: int) -> None:
        """Nothing: the stage is the caller's."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """See `Progress.advance`."""
        self._progress.advance(steps, note)

    def message(self, text: str) -> None:
        """See `Progress.message`."""
        self._progress.message(text)

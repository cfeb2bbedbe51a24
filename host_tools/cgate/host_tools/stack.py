"""Worst-case stack use, from the call graphs that GCC writes (-fcallgraph-info=su)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

INDIRECT = "__indirect_call"
EXCEPTION_FRAME = 108
"""Bytes that a core saves when an interrupt comes, at most: its registers, those of its floating
point unit, and a word of alignment (Armv7-M and Armv8-M Architecture Reference Manuals)."""

EXTERNAL_FRAME = 64
"""Bytes assumed for a function of the C library: memcpy and its like save a few registers."""

_NODE = re.compile(r'^node: \{ title: "([^"]*)" label: "([^"]*)"', re.MULTILINE)
_EDGE = re.compile(r'^edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"', re.MULTILINE)
_BYTES = re.compile(r"(\d+) bytes \((static|dynamic[^)]*)\)")


@dataclass(frozen=True)
class CallGraph:
    """Frame size of every function in bytes, and whom it calls."""

    frames: Mapping[str, int]
    calls: Mapping[str, frozenset[str]]


def read_call_graph(files: Iterable[Path]) -> CallGraph:
    """Merge the .ci files of a program."""
    frames: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    for path in files:
        text = path.read_text(encoding="utf-8")
        for title, label in _NODE.findall(text):
            size = _BYTES.search(label)
            if size is not None:
                frames[title] = int(size[1])
        for source, target in _EDGE.findall(text):
            calls.setdefault(source, set()).add(target)
    return CallGraph(frames, {name: frozenset(targets) for name, targets in calls.items()})


def stack_bound(graph: CallGraph, start: str) -> int:
    """Most bytes of stack that `start` can use, itself included.

    An indirect call may reach every function that nobody calls directly: that is how the model's
    run function and an application's callback are called. No function is counted twice on a path,
    so the bound holds for programs without recursion, and cgate's firmware has none.
    """
    called = {target for targets in graph.calls.values() for target in targets}
    indirect = frozenset(name for name in graph.frames if name not in called and name != start)

    def deepest(name: str, path: frozenset[str]) -> int:
        if name in path:
            return 0
        targets = indirect if name == INDIRECT else graph.calls.get(name, frozenset())
        frame = 0 if name == INDIRECT else graph.frames.get(name, EXTERNAL_FRAME)
        # The placeholder itself may be passed twice: run -> callback.
        path = path if name == INDIRECT else path | {name}
        return frame + max((deepest(target, path) for target in targets), default=0)

    return deepest(start, frozenset())

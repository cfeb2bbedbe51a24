"""What a person sees: progress on stderr, plain tables on stdout, colour only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


def stderr_console() -> Console:
    """A rich console on stderr. rich itself honours NO_COLOR and TERM=dumb."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def wants_bar() -> bool:
    """Whether stderr is a terminal with somebody in front of it (not CI, not dumb)."""
    return (
        sys.stderr.isatty()
        and not os.environ.get("CI")
        and os.environ.get("TERM", "dumb") != "dumb"
    )


class ConsoleProgress:
    """Shows a `cgate.core.progress.Progress` on stderr.

    On a terminal the current stage is a bar, and messages scroll above it. Elsewhere every stage
    and every message is one line, so that a log file stays readable.

    Args:
        bar: draw bars; `wants_bar()` unless the user said otherwise.
    """

    def __init__(self, bar: bool) -> None:
        self._console = stderr_console()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if bar:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("[dim]{task.fields[note]}"),
                console=self._console,
                transient=True,
            )

    def start(self, stage: str, total: int) -> None:
        """See `Progress.start`."""
        if self._bar is None:
            self._console.print(stage, markup=False)
            return
        self._bar.start()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(stage, total=total or None, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        """See `Progress.advance`."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps, note=note)

    def message(self, text: str) -> None:
        """See `Progress.message`."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Remove the bar, so that what is printed next starts on a clean line."""
        if self._bar is not None:
            self._bar.stop()


def print_error(message: str, hint: str) -> None:
    """The one form of an error: what went wrong, and what to do next."""
    console = stderr_console()
    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False)
    if hint:
        console.print("  [bold]try:[/] ", end="")
        console.print(hint.removeprefix("try "), markup=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> list[str]:
    """Lines of a plain table; the same on a terminal and in a pipe.

    Args:
        head: one title per column.
        rows: cells as text.
        right: "r" at the place of each column to align right, such as "  rr".
    """
    widths = [
        max(len(line[i]) for line in (head, *rows)) if rows else len(head[i])
        for i in range(len(head))
    ]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if right[i : i + 1] == "r" else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [line(head), line(["-" * width for width in widths]), *(line(row) for row in rows)]


def facts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of aligned "name  value" pairs."""
    width = max((len(name) for name, _ in pairs), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in pairs]

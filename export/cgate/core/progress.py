"""How long-running functions tell what they do, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Receives stages and steps; `cgate` shows them on stderr, tests ignore them."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins and replaces the one before."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more steps of the stage are done; `note` is a short current state."""

    def message(self, text: str) -> None:
        """A line that should stay visible, such as the result of an epoch or a warning."""


class Silent:
    """A Progress that says nothing."""

    def start(self, stage: str, total: int) -> None:
        """Ignored."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Ignored."""

"""What every power meter gives: samples of power, and the moments of falling edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import EXIT_TARGET_FAILED, CgateError

Power = NDArray[np.float64]


@dataclass(frozen=True)
class Chunk:
    """Some consecutive samples.

    Args:
        first: number of the first sample since the meter was started. A number that does not
            follow on the last chunk's end means that samples were lost.
        watts: float64 [n], mean power of each sample's interval; NaN where a sample is unknown.
        edges: numbers of the samples before which the signal fell.
        overflow: some sample was beyond what the meter can measure.
    """

    first: int
    watts: Power
    edges: tuple[int, ...] = ()
    overflow: bool = False

    @property
    def end(self) -> int:
        """Number of the sample after the last."""
        return self.first + len(self.watts)


class Meter(Protocol):
    """An instrument; a context manager that supplies the board while it is open.

    Attributes:
        name: kind of instrument.
        rate_hz: samples per second.
        volts: what it supplies the board with; None if something else does.
    """

    name: str
    rate_hz: float
    volts: float | None

    def __enter__(self) -> Meter:
        """Connect, switch the supply on and start to sample."""

    def __exit__(self, *_: object) -> None:
        """Stop and disconnect; never raises."""

    def read(self, timeout_s: float) -> Chunk | None:
        """The next samples; None if none came in time, or none will come any more (`ended`).

        Raises:
            CgateError: the instrument has gone or reports a fault (exit code 4).
        """

    @property
    def ended(self) -> bool:
        """Whether no further sample can come: the end of a file."""

    def identity(self) -> str:
        """Model, serial number or version, as far as the instrument tells."""


def gone(name: str, why: object) -> CgateError:
    """The error for an instrument that does not answer any more."""
    detail = str(why) or type(why).__name__
    return CgateError(
        f"the {name} has gone: {detail}",
        "connect it again and repeat the command; what was measured is kept",
        EXIT_TARGET_FAILED,
    )


def falling(levels: NDArray[np.uint8], first: int, before: int | None) -> tuple[int, ...]:
    """Numbers of the samples at which a logic signal has fallen.

    Args:
        levels: uint8 [n], 0 or 1.
        first: number of the first of them.
        before: the level before the first; None if unknown.
    """
    start = levels[:1] if before is None else np.array([before], np.uint8)
    past = np.concatenate([start, levels[:-1]])
    return tuple(int(i) + first for i in np.flatnonzero((past == 1) & (levels == 0)))

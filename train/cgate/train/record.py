"""What a run leaves for people: README.txt, run.json, log.csv, curves.png, TensorBoard events."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cgate.core.errors import CgateError
from cgate.core.files import read_json, write_error, write_json, write_text
from cgate.core.version import __version__, commit
from cgate.train.curves import write_curves
from cgate.train.resume import Row

LOG = "log.csv"
RUN = "run.json"
CURVES = "curves.png"
EVENTS = "tensorboard"
README = "README.txt"
SCHEMA = 1

CURVES_EVERY_S = 30.0
"""Drawing takes a third of a second: more than an epoch of a small network."""

EXPLANATION = """\
A training run of cgate. Accuracies are shares of images, 0..1; executed shares are executed MACs
over those of the same network without gates and exits.

run.json            how it was made: every value of the recipe, the network, the data and its md5,
                    the commit, the environment, and the seconds that each epoch took
log.csv             a line per epoch
  lr                  learning rate at the end of the epoch
  train_loss          mean over the epoch, penalties included
  train_share         executed share on training images, with the gates that training uses
  validation_accuracy of the network as deployed, on images that training never sees
  executed_share      of the network as deployed, on the same images
  open_<block>        share of those images whose gate on this block is open
  left_<block>        share of those images that left at the exit behind this block
curves.png          the same as pictures
tensorboard/        the same for `tensorboard --logdir`
last.safetensors, state.json
                    while training: the last epoch, complete; the same command goes on from it
model.safetensors   the weights, when training is done
ranges.json         ranges of all activations on training images, for `cgate export`
card.json           the result: accuracies, open rates per block and class, executed MACs, controls
                    (the same weights with other gates). It holds the only figures from the test
                    images, which are read once, at the end. A run with a card is complete.
"""


class Writer(Protocol):
    """The part of torch's SummaryWriter that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Add a point."""

    def flush(self) -> None:
        """Write all points."""

    def close(self) -> None:
        """Write all points, and stop."""


def _event_writer(folder: Path) -> Writer | None:
    """Writes TensorBoard events, in place of those there; None if tensorboard is not installed.

    Raises:
        CgateError: the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        writer: Writer = SummaryWriter(str(folder))
    except OSError as error:
        raise write_error(folder, error) from error
    return writer


def duration(seconds: float) -> str:
    """Time for people: "0.3 s", "12 s", "4 min", "3 h 20 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def environment(device: str, ranks: int) -> dict[str, Any]:
    """What a run's bits depend on besides its recipe."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device,
        "ranks": ranks,
    }


class Record:
    """Writes the run folder `out` as training goes on.

    Args:
        out: the folder.
        facts: what run.json says besides times, commit and version.
        log: a row per epoch that is done already.
        epochs: of the whole run.
        tau: target of the executed share, None without gates.
    """

    def __init__(
        self,
        out: Path,
        facts: Mapping[str, Any],
        log: Sequence[Row],
        epochs: int,
        tau: float | None,
    ) -> None:
        self._out = out
        self._facts = facts
        self._epochs = epochs
        self._tau = tau
        self._log = list(log)
        self._seconds: list[float] = []
        if log and (out / RUN).exists():
            self._seconds = list(read_json(out / RUN, "the run's description")["seconds"])
            del self._seconds[len(log) :]
        self._now = self._drawn = time.monotonic()
        self._started = len(log)
        write_text(out / README, EXPLANATION)
        self._write_run()
        # Written anew from the log: TensorBoard would order the files of two starts by their names.
        self._writer = _event_writer(out / EVENTS)
        self._add_events(log)

    def _write_run(self) -> None:
        facts = {"schema": SCHEMA, **self._facts, "cgate": __version__, "commit": commit()}
        write_json(self._out / RUN, {**facts, "seconds": self._seconds})

    def epoch(self, row: Row) -> str:
        """Record an epoch.

        Returns:
            How long it took and how long is left, for people.

        Raises:
            CgateError: the folder cannot be written or the disk is full.
        """
        now = time.monotonic()
        self._log.append(row)
        self._seconds.append(round(now - self._now, 3))
        self._now = now
        lines = [",".join(self._log[0])]
        lines += [",".join(str(value) for value in each.values()) for each in self._log]
        write_text(self._out / LOG, "\n".join(lines) + "\n")
        self._write_run()
        self._add_events([row])
        if now - self._drawn > CURVES_EVERY_S:
            self.draw()
        text = duration(self._seconds[-1])
        left = self._epochs - len(self._log)
        if left:
            # Counted from the end: a crash may have kept an epoch whose time was not written.
            recent = self._seconds[self._started - len(self._log) :]
            text += f", about {duration(left * sum(recent) / len(recent))} left"
        return text

    def _add_events(self, rows: Sequence[Row]) -> None:
        if self._writer is None:
            return
        try:
            for row in rows:
                for key, value in row.items():
                    if key != "epoch":
                        self._writer.add_scalar(key.replace("_", "/", 1), value, row["epoch"])
            self._writer.flush()
        except OSError as error:
            raise write_error(self._out / EVENTS, error) from error

    def draw(self) -> None:
        """Draw curves.png, if there is an epoch to draw and matplotlib is installed."""
        self._drawn = time.monotonic()
        if self._log:
            write_curves(self._out / CURVES, self._log, self._tau)

    def close(self) -> None:
        """Draw the last curves and end the event file. What fails here has failed before."""
        with contextlib.suppress(CgateError):
            self.draw()
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

"""What the counting plugin costs: CPU time of QEMU with and without it, same program and images.

PYTHONPATH=train:export:host_tools python tests/host_tools/bench_plugin.py BUNDLE..
"""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.plan import load_bundle
from cgate.core.targets import find_target
from cgate.host_tools.build import Build, build
from cgate.host_tools.plugin import Counts
from cgate.host_tools.runner import Session, run
from cgate.host_tools.wire import QUIT, Frame

TARGET = find_target("cortex-m4")
FLASH = find_target("nucleo-l4r5zi").flash_access
INSTRUCTIONS = 1_000_000_000
"""Executed in a run, about; so many that starting QEMU and translating do not count."""
REPETITIONS = 3


class Plain(Session):
    """QEMU without the plugin."""

    def _command(self) -> list[str | Path]:
        command = super()._command()
        place = command.index("-plugin")
        return command[:place] + command[place + 2 :]

    def finish(self) -> Counts | None:
        """End the program; nothing was counted."""
        self.exchange(Frame(QUIT), b"q", 60.0)
        self._end(60.0)
        return None


def seconds(built: Build, images: NDArray[np.int8], session: type[Session]) -> float:
    """User CPU time of one QEMU that runs all images."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run(built, images, jobs=1, open_session=session)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main(folders: list[Path]) -> None:
    """Print a CSV table; times are the least of the repetitions, which take turns."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print("bundle,flash_model,images,instructions,plain_s,plugin_s,overhead_percent,n,commit")
    for folder in folders:
        shape = load_bundle(folder).plan.network.input_shape
        random = np.random.default_rng(0)
        for access in (None, FLASH):
            built = replace(build(folder, TARGET), target=replace(TARGET, flash_access=access))
            one = random.integers(-128, 128, (1, *shape)).astype(np.int8)
            count = max(1, INSTRUCTIONS // int(run(built, one, jobs=1)[0].total or 1))
            images = random.integers(-128, 128, (count, *shape)).astype(np.int8)
            executed = sum(result.total or 0 for result in run(built, images, jobs=1))
            times = [
                (seconds(built, images, Plain), seconds(built, images, Session))
                for _ in range(REPETITIONS)
            ]
            plain, counted = (min(column) for column in zip(*times, strict=True))
            overhead = f"{100 * (counted / plain - 1):.1f}"
            model = "none" if access is None else "nucleo-l4r5zi"
            cells = (folder.name, model, count, executed, f"{plain:.3f}", f"{counted:.3f}")
            print(*cells, overhead, REPETITIONS, commit, sep=",", flush=True)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])

"""Fixtures that several folders share. What is slow to make is made once per test run."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cgate.core.progress import Silent
from cgate.core.targets import find_target

# One test process per core is enough: threads on top of that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DEMO_EPOCHS = 2  # trained well enough to have gates that differ from image to image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs QEMU where there is none, and say how to get it."""
    missing = [tool for tool in ("qemu-system-arm", "arm-none-eabi-gcc") if not shutil.which(tool)]
    if not missing:
        return
    packages = "qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi"
    reason = f"{', '.join(missing)} not found: sudo apt-get install {packages}"
    for item in items:
        if item.get_closest_marker("qemu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_once(name, make)`: the folder that `make(folder)` fills, once for all processes."""

    def once(name: str, make: Callable[[Path], object]) -> Path:
        # pytest-xdist gives every process its own folder below one that they share.
        shared = tmp_path_factory.getbasetemp()
        if shared.name.startswith("popen-"):
            shared = shared.parent
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def digits_checkpoint(make_once: Callable[..., Path]) -> Path:
    """A checkpoint of the `demo` recipe, DEMO_EPOCHS epochs. Read only."""
    pytest.importorskip("torch", reason='torch is missing: pip install "cgate[train]"')

    def make(folder: Path) -> None:
        from cgate.train.loop import train
        from cgate.train.recipes import find_recipe

        train(find_recipe("demo"), folder, epochs=DEMO_EPOCHS, progress=Silent())

    return make_once("digits-checkpoint", make)


@pytest.fixture(scope="session")
def digits_bundle(make_once: Callable[..., Path], digits_checkpoint: Path) -> Path:
    """`digits_checkpoint` exported for Cortex-M4. Read only: copy it to build or run it."""

    def make(folder: Path) -> None:
        from cgate.export.bundle import export_checkpoint

        export_checkpoint(digits_checkpoint, folder, find_target("cortex-m4"))

    return make_once("digits-bundle", make)

"""Every kind of block on the routes that run C: the host, and an emulated Cortex-M4."""

from pathlib import Path

import pytest

from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.verify import verify
from synthetic import SHAPES, random_images, write_checkpoint
from tiny import needs_host, needs_qemu


def export(name: str, folder: Path) -> Path:
    checkpoint = write_checkpoint(folder / "checkpoint", SHAPES[name], seed=5, images=24)
    export_checkpoint(checkpoint.folder, folder / "bundle", find_target("cortex-m4"))
    return folder / "bundle"


@pytest.mark.parametrize("name", SHAPES)
def test_host_and_whole_tflite_are_equal(name: str, tmp_path: Path) -> None:
    needs_host()
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    images = random_images(SHAPES[name], 20, 7)
    result = verify(export(name, tmp_path), images, data="random", on=("network", "host"))
    assert result.equal, result.lines()


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["inverted", "chain", "signs"])
def test_qemu_is_equal(name: str, tmp_path: Path) -> None:
    needs_qemu()
    images = random_images(SHAPES[name], 6, 8)
    result = verify(export(name, tmp_path), images, data="random", on=("qemu",))
    assert result.equal, result.lines()

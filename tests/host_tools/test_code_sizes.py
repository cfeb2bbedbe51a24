"""The estimate of flash and RAM against linked programs: never too small, never far too large."""

from pathlib import Path

import pytest

from cgate.core.code import FOLDER, code_table
from cgate.core.errors import CgateError
from cgate.core.targets import CORE_FLAGS, find_target
from cgate.export.bundle import export_checkpoint
from cgate.export.footprint import FLASH_SLACK
from cgate.host_tools.build import build
from synthetic import small_network, write_checkpoint
from tiny import needs_qemu


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "kernels", "kind", "exits"),
    [
        ("netduinoplus2", "auto", "cir-predicted", ("s1b0", "s2b0")),
        ("cortex-m0plus", "auto", "anchor", ()),
        ("cortex-m3", "auto", "controller", ()),
        ("cortex-m55", "auto", "anchor", ()),
    ],
)
def test_the_estimate_is_a_close_upper_bound(
    target: str, kernels: str, kind: str, exits: tuple[str, ...], tmp_path: Path
) -> None:
    needs_qemu()
    network = small_network(kind=kind, exits=exits)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", network, images=4)
    machine = find_target(target)
    made = export_checkpoint(checkpoint.folder, tmp_path / "b", machine, kernels=kernels)
    program = build(tmp_path / "b", machine, io="uart")
    assert program.flash is not None and program.ram is not None
    # The tables hold the longer loops of targets without wait states.
    slack = FLASH_SLACK + (4096 if "-DCG_DSP_SHORT_LOOPS" in machine.cflags else 0)
    assert 0 <= made.choice.flash - program.flash <= slack
    assert 0 <= made.choice.ram - program.ram <= 256


@pytest.mark.parametrize("core", CORE_FLAGS)
def test_every_core_knows_the_code_of_its_kernels(core: str) -> None:
    table = code_table(core)
    assert "conv2d_s8__ref" in table
    assert all(size > 0 for symbols in table.values() for size in symbols.values())


def test_a_missing_table_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not (FOLDER / "cortex-m0.csv").exists()
    with pytest.raises(CgateError) as caught:
        code_table("cortex-m0")
    assert "cgate bench code" in caught.value.hint

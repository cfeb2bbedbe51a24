"""`cgate power`: the whole way, with a chip in QEMU as the board and a simulated meter."""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("ppk2_api", reason='ppk2-api is missing: pip install "cgate[power]"')

from cgate.core.errors import EXIT_CHECK_FAILED, EXIT_OK, EXIT_TARGET_FAILED, EXIT_USAGE, CgateError
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.build import build
from cgate.host_tools.cli import main
from cgate.host_tools.meters.dut import Dut
from instruments import write_scope
from pty_qemu import qemu_on_pty
from synthetic import small_network, write_checkpoint
from tiny import needs_qemu

STM32 = find_target("netduinoplus2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("power")
    write_checkpoint(folder / "checkpoint", small_network())
    export_checkpoint(folder / "checkpoint", folder / "bundle", STM32)
    return folder / "bundle"


def power(bundle: Path, *words: str) -> int:
    return main(["power", str(bundle), "--json", *words])


def test_a_recording(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its record names what was measured; a second call measures nothing anew."""
    expected = write_scope(tmp_path / "scope.csv")
    words = ["--meter", "csv", "--file", str(tmp_path / "scope.csv"), "--voltage", "3.0"]
    words += ["--iterations", "100"]
    for _ in range(2):
        assert power(bundle, *words) == EXIT_OK
        data = json.loads(capsys.readouterr().out)["data"]
        assert data["joules_per_inference"] == pytest.approx(expected / 100)
        assert (data["board"], data["source"]) == ("netduinoplus2", "measured")
        assert len(data["windows"]) == 5 and len(data["plan_sha256"]) == 64
    assert json.loads((bundle / "power" / "csv.json").read_text())["meter"] == "csv"
    assert power(bundle, *words[:-1], "99") == EXIT_USAGE
    assert "another iterations: 100" in json.loads(capsys.readouterr().out)["errors"][0]["message"]


def test_too_few_windows(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scope(tmp_path / "scope.csv", windows=2)
    words = ["--meter", "csv", "--file", str(tmp_path / "scope.csv"), "--voltage", "3.0"]
    out = ["--iterations", "1", "--out", str(tmp_path / "out.json")]
    assert power(bundle, *words, *out) == EXIT_CHECK_FAILED
    assert "--windows 2 would do" in json.loads(capsys.readouterr().out)["errors"][0]["hint"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--meter", "ppk2"], "supplies the board"),
        (["--meter", "ppk2", "--voltage", "3"], "on a serial port"),
        (["--meter", "csv"], "needs its file"),
    ],
)
def test_what_is_missing(
    words: list[str], message: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert power(bundle, *words, "--iterations", "1") == EXIT_USAGE
    assert message in json.loads(capsys.readouterr().out)["errors"][0]["message"]


@pytest.mark.qemu
def test_the_board_is_made_to_run_windows(bundle: Path, tmp_path: Path) -> None:
    """The edges themselves are seen in test_boards.py; here, that the program takes the orders."""
    needs_qemu()
    built = build(bundle, STM32, io="uart", app="mlperf-energy")
    with qemu_on_pty(STM32, built.program, tmp_path) as (port, _):
        board = Dut(port, 3)
        for _ in range(2):
            board.run()
            assert "m-infer-done" in board.wait(60)
        board.close()


@pytest.mark.qemu
def test_the_board_holds_another_program(bundle: Path, tmp_path: Path) -> None:
    needs_qemu()
    built = build(bundle, STM32, io="uart")
    with qemu_on_pty(STM32, built.program, tmp_path) as (port, _):
        board = Dut(port, 3, timeout_s=1.0)
        with pytest.raises(CgateError, match="does not answer") as caught:
            board.run()
        board.close()
    assert caught.value.code == EXIT_TARGET_FAILED and "mlperf-energy" in caught.value.hint


def test_the_board_is_unplugged(tmp_path: Path) -> None:
    """A cable that is pulled is the target's failure, not a defect of cgate."""
    far, near = os.openpty()
    board = Dut(os.ttyname(near), 3)
    os.close(near)
    os.close(far)
    with pytest.raises(CgateError, match="the board has gone") as caught:
        board.run()
    board.close()
    assert caught.value.code == EXIT_TARGET_FAILED and "connect it again" in caught.value.hint

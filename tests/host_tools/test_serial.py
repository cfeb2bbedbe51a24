"""The serial runner against QEMU's UART on a pseudo-terminal: the real program, the real frames."""

import os
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from cgate.core.errors import EXIT_TARGET_FAILED, EXIT_TOOL_MISSING, CgateError
from cgate.core.progress import Silent
from cgate.core.targets import all_targets, find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.build import Build, build
from cgate.host_tools.cli import main
from cgate.host_tools.evaluate import evaluate
from cgate.host_tools.flash import TOOLS, flash_command, run_flash
from cgate.host_tools.inputs import Inputs
from cgate.host_tools.runner import Session, run
from cgate.host_tools.serial_link import SerialSession, choose_port, renode_script, session_on
from cgate.host_tools.trace import read_trace
from cgate.host_tools.wire import Frame, encode
from pty_qemu import qemu_on_pty
from synthetic import random_images, small_network, write_checkpoint
from tiny import images, needs_host, needs_qemu, write_bundle

STM32 = find_target("netduinoplus2")
L4 = find_target("nucleo-l4r5zi")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("serial") / "bundle")


@pytest.mark.qemu
def test_a_board_gives_what_the_host_gives(bundle: Path, tmp_path: Path) -> None:
    """Twice over the same line; before the second time, half a request is left behind."""
    needs_qemu()
    needs_host()
    built = build(bundle, STM32, io="uart")
    expected = run(build(bundle, None, on="host"), images(12))
    with qemu_on_pty(STM32, built.program, tmp_path) as (port, _):
        for attempt in range(2):
            results = run(built, images(12), open_session=session_on("serial", port, STM32), jobs=1)
            for got, want in zip(results, expected, strict=True):
                assert np.array_equal(got.logits, want.logits)
                assert np.array_equal(got.decisions, want.decisions)
                # QEMU has no cycle counter, and the program says so instead of sending zeros.
                assert got.cycles is None and got.instructions is None
            if attempt == 0:
                line = os.open(port, os.O_RDWR | os.O_NOCTTY)
                os.write(line, encode(Frame(b"R", images(1).tobytes()))[:20])
                os.close(line)


@pytest.mark.qemu
def test_unplugged(bundle: Path, tmp_path: Path) -> None:
    needs_qemu()
    built = build(bundle, STM32, io="uart")
    with (
        qemu_on_pty(STM32, built.program, tmp_path) as (port, pid),
        SerialSession(built, port) as session,
    ):
        info = session.info()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(CgateError) as caught:
            for image in images(50):
                session.run(info, image, None, show=False, timeout_s=20)
    assert caught.value.code == EXIT_TARGET_FAILED and "has gone" in caught.value.message


class Counting(Session):
    """A host program whose port has a counter."""

    def __init__(self, build: Build, stop: threading.Event, program: Path) -> None:
        super().__init__(replace(build, program=program), stop)
        self.timed = True


def test_cycles_of_units_and_of_the_whole(bundle: Path, tmp_path: Path) -> None:
    """With a counter that advances by 7 each time it is read, the sums are known."""
    needs_host()
    from c_programs import FIRMWARE, compile_host
    from cgate.host_tools.build import app_flags

    counter = tmp_path / "counter.c"
    counter.write_text(
        '#include "cg_port.h"\n'
        "static uint32_t now = UINT32_MAX - 20;\n"
        "int cg_port_cycles(uint32_t *cycles) {\n    *cycles = now += 7;\n    return 1;\n}\n"
    )
    host = tmp_path / "host.c"
    text = (FIRMWARE / "port" / "host" / "cg_host.c").read_text()
    host.write_text(
        text.replace("int cg_port_cycles(", "int cg_unused(uint32_t *);\nint cg_unused(")
    )
    sources = [bundle / "c" / "tiny.c", *sorted((FIRMWARE / "src").rglob("*.c")), host, counter]
    sources.append(FIRMWARE / "apps" / "stream" / "main.c")
    program = compile_host("counting", sources, f"-I{bundle / 'c'}", *app_flags("tiny"))
    built = build(bundle, None, on="host")
    results = run(built, images(12), jobs=1, open_session=partial(Counting, program=program))
    for result in results:
        assert result.cycles is not None
        ran = [1, 1, int(result.decisions[0]), 1]
        assert result.cycles.tolist() == [*(7 * part for part in ran), 7]
    assert {int(r.decisions[0]) for r in results} == {0, 1}


def port(device: str, usb: str) -> ListPortInfo:
    info = ListPortInfo(device)
    vid, pid = usb.split(":") if usb else (None, None)
    info.vid, info.pid = (int(vid, 16), int(pid, 16)) if vid and pid else (None, None)
    return info


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        ([("/dev/ttyACM0", "0483:374b")], "/dev/ttyACM0"),
        # Another adapter does not matter where the board's own is there.
        ([("/dev/ttyUSB0", "10c4:ea60"), ("/dev/ttyACM1", "0483:374e")], "/dev/ttyACM1"),
        ([("/dev/ttyS0", ""), ("/dev/ttyUSB0", "10c4:ea60")], "/dev/ttyUSB0"),
        ([("/dev/ttyS0", "")], None),
        ([("/dev/ttyACM0", "0483:374b"), ("/dev/ttyACM1", "0483:374b")], None),
    ],
)
def test_the_only_port_is_found(
    present: list[tuple[str, str]], chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_ports, "comports", lambda: [port(*each) for each in present])
    if chosen is not None:
        assert choose_port("auto", L4.board) == chosen
        return
    with pytest.raises(CgateError) as caught:
        choose_port("auto", L4.board)
    assert caught.value.code == EXIT_TARGET_FAILED and "--port /dev/tty" in caught.value.hint


def test_a_port_that_is_not_there(bundle: Path, tmp_path: Path) -> None:
    built = Build(tmp_path, tmp_path, "serial", "uart", L4, "", (), None, None, None)
    with pytest.raises(CgateError) as caught, SerialSession(built, str(tmp_path / "nothing")):
        pass
    assert caught.value.code == EXIT_TARGET_FAILED and "cannot open" in caught.value.message


def test_renode_script(tmp_path: Path) -> None:
    target = find_target("stm32f4discovery")
    script = renode_script(target, tmp_path / "program.elf", tmp_path / "uart")
    assert "@platforms/boards/stm32f4_discovery-kit.repl" in script
    assert f'CreateUartPtyTerminal "uart" "{tmp_path}/uart"' in script
    assert script.index("LoadPlatform") < script.index("LoadELF") < script.index("\nstart")
    with pytest.raises(CgateError, match="no Renode platform is known for nucleo-l4r5zi"):
        renode_script(L4, tmp_path, tmp_path)


def test_renode_is_missing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = Build(tmp_path, tmp_path, "renode", "uart", L4, "", (), None, None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CgateError) as caught:
        run(built, images(1), open_session=session_on("renode", "auto", L4))
    assert caught.value.code == EXIT_TOOL_MISSING and "https://renode.io" in caught.value.hint


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("pyocd", ["flash", "--target", "stm32l4r5zitx"]),
        ("probe-rs", ["download", "--chip", "STM32L4R5ZITx"]),
        ("openocd", ["-f", "board/st_nucleo_l4.cfg", "-c"]),
    ],
)
def test_flash_commands_run(
    tool: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command as a tool sees it; the first installed tool is taken; its failure is told."""
    stand_in = tmp_path / tool
    stand_in.write_text('#!/bin/sh\necho "$0 $@" >> "$(dirname "$0")/log"\nexit $(cat "$0.code")\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    program = tmp_path / "a folder" / "program.elf"
    command = flash_command(L4, program)
    assert command[0] == tool and command[1 : 1 + len(words)] == words
    assert str(program) in command[-1]
    (tmp_path / f"{tool}.code").write_text("0")
    run_flash(command)
    assert " ".join(words) in (tmp_path / "log").read_text()
    (tmp_path / f"{tool}.code").write_text("1")
    with pytest.raises(CgateError, match="failed with exit code 1"):
        run_flash(command)


def test_openocd_is_given_the_probe_too(tmp_path: Path) -> None:
    for target in all_targets():
        if target.board:
            files = flash_command(target, tmp_path / "p.elf", "openocd")[1:-2]
            assert files[::2] == ["-f"] * (len(files) // 2)
            # A chip's file alone names no probe; a board's does.
            assert any(name.startswith(("board/", "interface/")) for name in files[1::2])


def test_probe_rs_that_cannot_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written but not started: the old program would go on running."""
    stand_in = tmp_path / "probe-rs"
    stand_in.write_text('#!/bin/sh\ntest "$1" != reset\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(CgateError, match="probe-rs reset --chip STM32L4R5ZITx failed"):
        run_flash(flash_command(L4, tmp_path / "p.elf"))


def test_flash_without_a_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CgateError) as caught:
        run_flash(flash_command(L4, tmp_path / "p.elf"))
    assert caught.value.code == EXIT_TOOL_MISSING
    assert all(tool in caught.value.hint for tool in TOOLS)
    with pytest.raises(CgateError, match="mps2-an386 is no board"):
        flash_command(find_target("cortex-m4"), tmp_path)


def test_flash_help_names_the_apps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flash", "--help"]) == 0
    assert "mlperf-energy" in capsys.readouterr().out


@pytest.mark.qemu
def test_a_trace_of_a_board(tmp_path: Path) -> None:
    """`cgate run --on serial`: the same trace as the host's, but for where it came from."""
    needs_qemu()
    network = small_network()
    write_checkpoint(tmp_path / "checkpoint", network)
    folder = tmp_path / "bundle"
    export_checkpoint(tmp_path / "checkpoint", folder, STM32)
    labels = np.zeros(6, np.int64)
    inputs = Inputs("synthetic", "test", np.arange(6), random_images(network, 6, 3), labels, 6)
    built = build(folder, STM32, io="uart")
    with qemu_on_pty(STM32, built.program, tmp_path) as (port, _):
        trace, path = evaluate(
            folder, inputs, target=STM32, on="serial", port=port, progress=Silent()
        )
    assert read_trace(path) == trace and trace.runner == "serial"
    assert trace.instructions is None and trace.board_cycles is None
    on_host, _ = evaluate(folder, inputs, target=STM32, on="host", progress=Silent())
    assert replace(trace, runner="host", binary=None) == on_host

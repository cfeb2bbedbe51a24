"""Every board's program builds, and what its start-up code does to an STM32F405 under QEMU."""

import re
import subprocess
from pathlib import Path

import pytest

from c_programs import INCLUDES, PORT, STRICT, compile_target
from cgate.core.targets import Target, all_targets, find_target
from cgate.host_tools.build import build, target_link_flags, uart_flags
from cgate.host_tools.toolchain import ARM_GCC, QEMU, find
from tiny import needs, needs_qemu, write_bundle

BOARDS = [target for target in all_targets() if target.board]
BSRR = 0x18


@pytest.mark.parametrize("target", BOARDS, ids=lambda target: target.name)
def test_board_builds(target: Target, tmp_path: Path) -> None:
    needs(ARM_GCC)
    built = build(write_bundle(tmp_path / "bundle"), target, io="uart")
    assert built.flash is not None and 4000 < built.flash < 12000
    # The vector table is where the core looks for it.
    symbols = subprocess.run(
        ["arm-none-eabi-nm", built.program], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(rf"^{target.flash.origin:08x} . table$", symbols, re.MULTILINE)


PULSES = """
#include "cg_port.h"
int main(void) {
    cg_port_open();
    cg_port_edge();
    cg_port_edge();
    cg_port_text("done");
    cg_port_exit(0);
}
"""


@pytest.mark.qemu
def test_start_up_and_edges_as_the_chip_sees_them(tmp_path: Path) -> None:
    """QEMU has no clocks and pins for this chip, but logs every access to them."""
    needs_qemu()
    target = find_target("netduinoplus2")
    (tmp_path / "main.c").write_text(PULSES)
    core, uart, chip = (PORT / folder for folder in ("cortex_m", "uart", "chip"))
    files = [core / f"cg_{name}.c" for name in ("startup", "fault", "time")]
    files += [uart / "cg_uart.c", uart / "cg_uart_stm32.c", chip / "cg_chip_stm32f4.c"]
    flags = [*target.cflags, *STRICT, "-O2", *INCLUDES, *uart_flags(target)]
    flags += [f"-I{folder}" for folder in (core, uart, chip)]
    program = tmp_path / "program.elf"
    command: list[str | Path] = [find(ARM_GCC), *flags, tmp_path / "main.c", *files]
    subprocess.run([*command, *target_link_flags(target), "-o", program], check=True)
    log = tmp_path / "log"
    command = [find(QEMU), "-M", target.qemu_machine, "-nodefaults", "-display", "none"]
    command += ["-kernel", program, "-serial", "stdio", "-d", "unimp", "-D", log]
    qemu = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert qemu.stdout is not None and qemu.stdout.read(4) == b"done"
    finally:
        qemu.kill()
        qemu.wait()
    assert target.board is not None
    accesses = re.findall(
        r"(\w+): unimplemented device (read|write).*?offset (\w+)(?:, value (\w+))?",
        log.read_text(),
    )
    writes = [
        (name, int(offset, 16), int(value, 16))
        for name, kind, offset, value in accesses
        if kind == "write"
    ]
    pin = int(re.findall(r"\d+", target.board.pulse)[0])
    pulse = [value for name, offset, value in writes if name == "GPIOC" and offset == BSRR]
    low, high = 1 << (pin + 16), 1 << pin
    assert pulse == [high, low, high, low, high]
    # The PLL is asked for, and as it does not come, the 16 MHz oscillator stays.
    assert any(name == "RCC" and offset == 0 and value >> 24 & 1 for name, offset, value in writes)
    assert [value for name, offset, value in writes if name == "RCC" and offset == 8][-1] == 0


@pytest.mark.qemu
def test_the_cycle_counter_is_unlocked_before_it_is_started(tmp_path: Path) -> None:
    """A Cortex-M7's DWT takes writes only then. QEMU has none, but logs every access to it."""
    needs_qemu()
    (tmp_path / "main.c").write_text(
        '#include "cg_port.h"\nint main(void) {\n'
        "    uint32_t cycles;\n    return cg_port_cycles(&cycles);\n}\n"
    )
    program = compile_target("counter", "cortex-m7", [tmp_path / "main.c"])
    command: list[str | Path] = [find(QEMU), "-M", find_target("cortex-m7").qemu_machine]
    command += ["-nographic", "-semihosting-config", "enable=on,target=native"]
    command += ["-kernel", program, "-d", "unimp,guest_errors", "-D", tmp_path / "log"]
    # It ends by itself with 0: no counter.
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    log = (tmp_path / "log").read_text()
    written = re.findall(r"Write of unassigned area of PPB: offset (0x1\w+)", log)
    assert written == ["0x1fb0", "0x1000"]

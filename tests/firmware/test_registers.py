"""What start-up code leaves in a board's registers means what its target file says.

No board was at hand. The code runs on this computer instead, with memory in the place of the
registers (registers.c), and what it leaves there is read as the reference manuals have it: this is
their dividers, ranges and wait states a second time, and shares nothing with the code.
"""

import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from c_programs import INCLUDES, PORT
from cgate.core.board import pin_number
from cgate.core.targets import Target, all_targets, find_target
from cgate.host_tools.build import BAUD, ENERGY_BAUD, uart_flags
from cgate.host_tools.toolchain import HOST_CC, find

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux",
    reason="registers lie where memory can be mapped on 64-bit x86 Linux; run it there",
)
BOARDS = [target for target in all_targets() if target.board]
MHZ = 1_000_000

# Registers come in pieces of 16 kB; of the values after reset those that start-up code changes.
BLOCKS = {
    "stm32f4": (0x40004000, 0x40010000, 0x40020000),
    "stm32l4": (0x40004000, 0x40008000, 0x40020000, 0x48000000),
    "stm32h7": (0x40004000, 0x51008000, 0x52000000, 0x58020000, 0x58024000, 0x5C000000, 0xE000C000),
    "stm32u5": (0x40010000, 0x40020000, 0x40030000, 0x42020000, 0x46020000),
    "nrf52": (0x40000000, 0x4001C000, 0x50000000),
}
REVISION_Y, REVISION_V = 0x10036450, 0x20036450
IDCODE, AXI_TARG7_FN_MOD = 0x5C001000, 0x51008108
RESET = {
    "stm32f4": {0x40023804: 0x24003010},
    "stm32l4": {0x40007080: 0x100},
    "stm32h7": {0x5802480C: 6, 0x58024818: 0x4000, 0x52002000: 0x37, IDCODE: REVISION_V},
    "stm32u5": {},
    "nrf52": {},
}


class Registers(dict[int, int]):
    """Words by address; 0 where none is given."""

    def __missing__(self, address: int) -> int:
        return 0

    def field(self, address: int, low: int, width: int) -> int:
        """Bits `low` to `low + width - 1`."""
        return self[address] >> low & (1 << width) - 1


@dataclass(frozen=True)
class Run:
    """States at every wait (the register waited for) and at the end, and the clocks returned."""

    states: list[tuple[int, Registers]]
    core_hz: int
    uart_hz: int

    @property
    def end(self) -> Registers:
        return self.states[-1][1]


def start_up(
    target: Target,
    folder: Path,
    *,
    works: bool = True,
    baud: int = BAUD,
    reset: Mapping[int, int] | None = None,
) -> Run:
    """The chip's start-up code and its UART's, compiled and run here."""
    program = folder / "registers"
    files = {
        "CHIP": f"chip/cg_chip_{target.chip}.c",
        "UART": f"uart/cg_uart_{target.uart}.c",
    }
    flags = [f'-DCG_{what}_FILE="{PORT / name}"' for what, name in files.items()]
    flags += [f"-I{PORT / part}" for part in ("chip", "uart")]
    flags.append("-DCG_TEST_BLOCKS=" + ",".join(f"{each:#x}" for each in BLOCKS[target.chip]))
    # Addresses of 32 bits become pointers of 64: what this test is about.
    flags += ["-O1", "-fno-toplevel-reorder", "-Wno-int-to-pointer-cast"]
    source = Path(__file__).with_name("registers.c")
    command: list[str | Path] = [find(HOST_CC), *INCLUDES, *uart_flags(target, baud), *flags]
    subprocess.run([*command, source, "-o", program], check=True)
    words = RESET[target.chip] | dict(reset or {})
    pairs = [f"{number:x}" for pair in words.items() for number in pair]
    out = subprocess.run(
        [program, str(int(works)), *pairs], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    states = []
    for line in out[:-1]:
        _, address, *given = line.split()
        found = (each.split("=") for each in given)
        states.append((int(address, 16), Registers((int(a, 16), int(v, 16)) for a, v in found)))
    core_hz, uart_hz = map(int, out[-1].split()[1:])
    return Run(states, core_hz, uart_hz)


@dataclass(frozen=True)
class Clocks:
    """As the registers say: of the core and the UART, and where the core's is selected."""

    core_hz: int
    uart_hz: int
    select: int
    wait_states: int


def stm32f4(words: Registers, target: Target) -> Clocks:
    """RM0090, RM0390: RCC, PWR, FLASH; 2.7 to 3.6 V."""
    rcc, power = 0x40023800, 0x40007000
    assert words.field(rcc, 24, 1) and words.field(rcc + 8, 0, 2) == 2
    assert not words.field(rcc + 4, 22, 1)  # from the 16 MHz RC oscillator
    into = 16 * MHZ // words.field(rcc + 4, 0, 6)
    vco = into * words.field(rcc + 4, 6, 9)
    core = vco // (2 * words.field(rcc + 4, 16, 2) + 2)
    assert MHZ <= into <= 2 * MHZ and 100 * MHZ <= vco <= 432 * MHZ
    assert vco // words.field(rcc + 4, 24, 4) <= 48 * MHZ
    # An F446 reaches 180 MHz by overdrive and has two bits of voltage scale, both 1 for the
    # highest; the others have one.
    f446 = "STM32F446" in target.description
    assert core <= (180 if f446 else 168) * MHZ
    assert words.field(power, 14, 2) == (3 if f446 else 1)
    assert words.field(power, 16, 2) == (3 if core > 168 * MHZ else 0)
    assert not words.field(rcc + 8, 4, 4)
    apb = [(words.field(rcc + 8, low, 3)) for low in (10, 13)]
    slow, fast = (core >> max(code - 3, 0) for code in apb)
    assert slow <= (45 if f446 else 42) * MHZ and fast <= (90 if f446 else 84) * MHZ
    assert words.field(0x40023C00, 8, 3) == 7
    uarts = {0x40004400: (rcc + 0x40, 17, slow), 0x40011000: (rcc + 0x44, 4, fast)}
    enable, bit, uart = uarts[target.uart_base]
    assert words.field(enable, bit, 1)
    waits = words.field(0x40023C00, 0, 4)
    assert waits >= -(-core // (30 * MHZ)) - 1
    return Clocks(core, uart, rcc + 8, waits)


def stm32l4(words: Registers, target: Target) -> Clocks:
    """RM0432: RCC, PWR, FLASH in range 1."""
    rcc = 0x40021000
    assert words.field(rcc, 8, 1) and words.field(rcc, 24, 1) and words.field(rcc + 8, 0, 2) == 3
    assert words.field(rcc + 12, 0, 2) == 2 and words.field(rcc + 12, 24, 1)
    into = 16 * MHZ // (words.field(rcc + 12, 4, 4) + 1)
    vco = into * words.field(rcc + 12, 8, 7)
    core = vco // (2 * words.field(rcc + 12, 25, 2) + 2)
    assert 2_660_000 <= into <= 16 * MHZ and 64 * MHZ <= vco <= 344 * MHZ
    assert words.field(rcc + 8, 4, 10) == 0  # no prescaler is left
    assert words.field(0x40007080, 8, 1) == 0 or core <= 80 * MHZ  # boost mode
    assert words.field(0x40007004, 9, 1)  # port G's supply
    assert words.field(rcc + 0x5C, 0, 1) and words.field(rcc + 0x88, 10, 2) == 2
    waits = words.field(0x40022000, 0, 4)
    assert waits >= -(-core // (20 * MHZ)) - 1 and words.field(0x40022000, 8, 3) == 7
    return Clocks(core, 16 * MHZ, rcc + 8, waits)


def stm32h7(words: Registers, target: Target) -> Clocks:
    """RM0433: RCC, PWR, FLASH at voltage scale 1; revision Y's limits."""
    rcc = 0x58024400
    assert words.field(rcc, 24, 1) and words.field(rcc + 0x10, 0, 3) == 3
    assert words.field(rcc + 0x28, 0, 2) == 0
    into = 64 * MHZ // words.field(rcc + 0x28, 4, 6)
    assert 8 * MHZ <= into <= 16 * MHZ and words.field(rcc + 0x2C, 2, 2) == 3
    vco = into * (words.field(rcc + 0x30, 0, 9) + 1)
    assert 192 * MHZ <= vco <= 836 * MHZ and words.field(rcc + 0x2C, 0, 2) == 0
    core = vco // (words.field(rcc + 0x30, 9, 7) + 1)
    assert words.field(rcc + 0x2C, 16, 1) and words.field(rcc + 0x18, 8, 4) == 0
    assert core <= 400 * MHZ
    assert words.field(rcc + 0x18, 0, 4) == 8
    bus = core // 2
    for address, low in ((0x18, 4), (0x1C, 4), (0x1C, 8), (0x20, 4)):
        assert bus >> max(words.field(rcc + address, low, 3) - 3, 0) <= 100 * MHZ
    assert words.field(0x58024818, 14, 2) == 3 and words.field(0x5802480C, 0, 3) == 2
    assert words.field(rcc + 0xE8, 18, 1) and words.field(rcc + 0x54, 0, 3) == 3
    assert words.field(0xE000ED14, 16, 2) == 3
    waits = words.field(0x52002000, 0, 4)
    assert bus <= 210 * MHZ and waits >= 2 and words.field(0x52002000, 4, 2) == 2
    return Clocks(core, 64 * MHZ, rcc + 0x10, waits)


def stm32u5(words: Registers, target: Target) -> Clocks:
    """RM0456: RCC, PWR, FLASH, ICACHE."""
    rcc = 0x46020C00
    assert words.field(rcc, 8, 1) and words.field(rcc, 24, 1) and words.field(rcc + 0x1C, 0, 2) == 3
    assert words.field(rcc + 0x28, 0, 2) == 2 and words.field(rcc + 0x28, 18, 1)
    into = 16 * MHZ // (words.field(rcc + 0x28, 8, 4) + 1)
    assert 8 * MHZ <= into <= 16 * MHZ and words.field(rcc + 0x28, 2, 2) == 3
    assert words.field(rcc + 0x28, 12, 4) == 0  # the booster's clock: 4 to 16 MHz
    vco = into * (words.field(rcc + 0x34, 0, 9) + 1)
    by = words.field(rcc + 0x34, 24, 7) + 1
    core = vco // by
    assert 128 * MHZ <= vco <= 544 * MHZ and (by == 1 or by % 2 == 0)
    assert core <= 160 * MHZ and words.field(0x4602080C, 16, 2) == 3
    assert words.field(0x4602080C, 18, 1) and words.field(0x46020808, 1, 1)
    assert words.field(rcc + 0xA4, 14, 1) and words.field(rcc + 0xE0, 0, 2) == 2
    assert words.field(0x40030400, 0, 1)
    waits = words.field(0x40022000, 0, 4)
    assert waits >= -(-core // (32 * MHZ)) - 1
    return Clocks(core, 16 * MHZ, rcc + 0x1C, waits)


CHIPS: dict[str, Callable[[Registers, Target], Clocks]] = {
    "stm32f4": stm32f4,
    "stm32l4": stm32l4,
    "stm32h7": stm32h7,
    "stm32u5": stm32u5,
}
FLASH_ACR = {
    "stm32f4": 0x40023C00,
    "stm32l4": 0x40022000,
    "stm32h7": 0x52002000,
    "stm32u5": 0x40022000,
}
GPIO = {"stm32f4": 0x40020000, "stm32l4": 0x48000000, "stm32h7": 0x58020000, "stm32u5": 0x42020000}
GPIO_CLOCKS = {
    "stm32f4": 0x40023830,
    "stm32l4": 0x4002104C,
    "stm32h7": 0x580244E0,
    "stm32u5": 0x46020C8C,
}
STM32 = [target for target in BOARDS if target.chip in CHIPS]
by_name = pytest.mark.parametrize("target", STM32, ids=lambda target: target.name)


@by_name
def test_clock(target: Target, tmp_path: Path) -> None:
    run = start_up(target, tmp_path)
    clocks = CHIPS[target.chip](run.end, target)
    assert clocks.core_hz == run.core_hz == target.clock_hz
    assert clocks.uart_hz == run.uart_hz
    # The flash is slow enough before the core is fast, not after.
    selected = next(words for address, words in run.states if address == clocks.select)
    assert selected.field(FLASH_ACR[target.chip], 0, 4) == clocks.wait_states
    if target.flash_access is not None:
        assert target.flash_access.wait_states == clocks.wait_states


@by_name
def test_clock_that_does_not_start(target: Target, tmp_path: Path) -> None:
    run = start_up(target, tmp_path, works=False)
    slow = 64 * MHZ if target.chip == "stm32h7" else 16 * MHZ
    assert run.core_hz == run.uart_hz == slow
    source = 1 if target.chip in ("stm32l4", "stm32u5") else 0
    select = {"stm32f4": 0x40023808, "stm32l4": 0x40021008, "stm32h7": 0x58024410}
    assert run.end.field(select.get(target.chip, 0x46020C1C), 0, 2) == source


@pytest.mark.parametrize("baud", [BAUD, ENERGY_BAUD])
@pytest.mark.parametrize("target", BOARDS, ids=lambda target: target.name)
def test_baud_rate(target: Target, baud: int, tmp_path: Path) -> None:
    run = start_up(target, tmp_path, baud=baud)
    if target.uart == "nrf52":
        rate = run.end[target.uart_base + 0x524] * 16 * MHZ / 2**32
    else:
        divider = run.end[target.uart_base + (8 if target.uart == "stm32" else 12)]
        low_power = target.uart_base == 0x40008000
        low, high = (0x300, 0xFFFFF) if low_power else (16, 0xFFFF)
        assert low <= divider <= high
        rate = run.uart_hz * (256 if low_power else 1) / divider
    # A byte is lost from 4 % or so; the oscillators take 1 % of that.
    assert rate == pytest.approx(baud, rel=0.005)


@by_name
def test_pins(target: Target, tmp_path: Path) -> None:
    assert target.board is not None
    words = start_up(target, tmp_path).end

    def of(pin: str) -> tuple[int, int]:
        number = pin_number(pin)
        assert words.field(GPIO_CLOCKS[target.chip], number // 32, 1)
        return GPIO[target.chip] + number // 32 * 0x400, number % 32

    for pin in (target.board.uart_tx, target.board.uart_rx):
        port, bit = of(pin)
        assert words.field(port, 2 * bit, 2) == 2
        half = port + 0x20 + bit // 8 * 4
        assert words.field(half, bit % 8 * 4, 4) == target.board.uart_function
    port, bit = of(target.board.uart_rx)
    assert words.field(port + 12, 2 * bit, 2) == 1
    port, bit = of(target.board.pulse)
    assert words.field(port, 2 * bit, 2) == 1
    assert words[port + 0x18] == 1 << bit  # the last thing written: set it


def test_nordic(tmp_path: Path) -> None:
    """nRF52840 product specification 1.7: GPIO, UART, POWER, NVMC."""
    words = start_up(find_target("nrf52840-dk"), tmp_path).end
    assert (words[0x4000250C], words[0x40002514]) == (6, 8)
    assert words[0x50000718] & 1 == 1 and words[0x50000720] & 0xF == 0xC
    assert words[0x50000300 + 0x720] & 1 == 1  # P1.08
    assert words[0x40000578] == 1 and words[0x4001E540] == 1


@pytest.mark.parametrize(("revision", "slow"), [(REVISION_Y, 1), (REVISION_V, 0), (0, 1)])
def test_reads_of_an_old_stm32h743(revision: int, slow: int, tmp_path: Path) -> None:
    """ES0392 2.2.9, as in ST's own start-up code."""
    run = start_up(find_target("nucleo-h743zi"), tmp_path, reset={IDCODE: revision})
    assert run.end[AXI_TARG7_FN_MOD] == slow

"""What a target file says about a real board: its chip, pins and flashing tools."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

# Files firmware/port/chip/cg_chip_<name>.c; "mps" has no pins and needs no board.
CHIPS = ("stm32f4", "stm32h7", "stm32l4", "stm32u5", "nrf52")


@dataclass(frozen=True)
class Board:
    """The `[board]` table of a target file.

    Args:
        chip: family, one of CHIPS.
        uart_tx: pin, as the chip's maker writes it ("PG7", "P0.06").
        uart_rx: pin.
        uart_function: alternate function of both pins; 0 where the chip has no such thing.
        pulse: pin whose falling edges begin and end a power window.
        pulse_label: where that pin is on the board.
        serial: where the UART comes out, for people.
        usb: "vid:pid" of the board's serial port, in hexadecimal; empty if it has none.
        pyocd: the chip's name for pyocd.
        probe_rs: the chip's name for probe-rs.
        openocd: OpenOCD's configuration files (0.12 and later), separated by spaces.
        renode: the platform description that Renode ships, or empty.
        renode_uart: the UART's name in it.
    """

    chip: str
    uart_tx: str
    uart_rx: str
    uart_function: int
    pulse: str
    pulse_label: str
    serial: str
    usb: str
    pyocd: str
    probe_rs: str
    openocd: str
    renode: str
    renode_uart: str

    @property
    def macros(self) -> tuple[str, ...]:
        """Compiler flags that give the pins to the chip's code."""
        numbers = {
            "CG_PIN_TX": pin_number(self.uart_tx),
            "CG_PIN_RX": pin_number(self.uart_rx),
            "CG_PIN_FUNCTION": self.uart_function,
            "CG_PIN_PULSE": pin_number(self.pulse),
        }
        return tuple(f"-D{name}={number}u" for name, number in numbers.items())


def pin_number(name: str) -> int:
    """A pin as 32 * port + pin: "PA9" -> 9, "PG7" -> 199, "P1.08" -> 40.

    Raises:
        ValueError: it is no pin.
    """
    if match := re.fullmatch(r"P([A-K])(\d|1[0-5])", name):
        return (ord(match[1]) - ord("A")) * 32 + int(match[2])
    if match := re.fullmatch(r"P([01])\.([0-2]\d|3[01])", name):
        return int(match[1]) * 32 + int(match[2])
    raise ValueError(f"{name!r} is no pin, such as 'PA9' or 'P0.06'")


def read_board(table: object) -> Board | None:
    """The `[board]` table as a Board; None if there is none.

    Raises:
        ValueError: a key is missing, unknown or of the wrong type; no such chip or pin.
    """
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ValueError("'board' must be a table")
    names = {field.name for field in fields(Board)}
    if odd := sorted(names ^ table.keys()):
        raise ValueError(f"key {odd[0]!r} of 'board' is missing or unknown")
    for key, value in table.items():
        if type(value) is not (int if key == "uart_function" else str):
            raise ValueError(f"{key!r} of 'board' has the wrong type")
    if table["chip"] not in CHIPS:
        raise ValueError(f"chip {table['chip']!r} is none of {', '.join(CHIPS)}")
    board = Board(**table)
    _ = board.macros  # raises where a pin is none
    if not re.fullmatch(r"([0-9a-f]{4}:[0-9a-f]{4}( |$))*", board.usb):
        raise ValueError(f"usb {board.usb!r} should be vid:pid, lower case, separated by spaces")
    return board

"""Target tables: one TOML per board or emulated machine, in targets/."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from cgate.core.board import Board, read_board
from cgate.core.energy import Energy, read_energy
from cgate.core.errors import CgateError

FOLDER = Path(__file__).parent / "targets"

# GCC flags per core. Soft float throughout: the library has no floating point.
CORE_FLAGS: dict[str, tuple[str, ...]] = {
    "cortex-m0plus": ("-mcpu=cortex-m0plus",),
    "cortex-m3": ("-mcpu=cortex-m3",),
    "cortex-m4": ("-mcpu=cortex-m4", "-mfloat-abi=soft"),
    "cortex-m7": ("-mcpu=cortex-m7", "-mfloat-abi=soft"),
    "cortex-m33": ("-mcpu=cortex-m33", "-mfloat-abi=soft"),
    # GCC enables MVE for this core only together with the hard-float ABI.
    "cortex-m55": ("-mcpu=cortex-m55", "-mfloat-abi=hard"),
}

# Cores with the DSP extension: GCC defines __ARM_FEATURE_DSP for them.
DSP_CORES = ("cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")

# Cores with Helium: GCC defines __ARM_FEATURE_MVE for them.
MVE_CORES = ("cortex-m55",)


def core_features(core: str) -> tuple[str, ...]:
    """What kernels may need that the core has, in the words of cg_kernels.inc."""
    dsp, mve = core in DSP_CORES, core in MVE_CORES
    return ("any", *(["dsp"] if dsp else []), *(["mve"] if mve else []))


STAND_IN_CODE = 1 << 20
"""Bytes of RAM for the code of a program that runs from RAM on the board that is stood in for."""

UARTS = ("cmsdk", "stm32", "stm32v2", "nrf52")


@dataclass(frozen=True)
class Region:
    """A memory: first address and size in bytes."""

    origin: int
    size: int


@dataclass(frozen=True)
class FlashAccess:
    """A flash memory slower than the core, behind an accelerator (DESIGN.md, "Cycles").

    Args:
        wait_states: cycles that an access takes beyond the first.
        line: bytes read by one access, and of a cache line.
        instruction_lines: lines of the instruction cache; 0 for none.
        data_lines: lines of the data cache; 0 for none.
        prefetch: whether the next line is read while one executes.
    """

    wait_states: int
    line: int
    instruction_lines: int
    data_lines: int
    prefetch: bool


@dataclass(frozen=True)
class Target:
    """One board or emulated machine.

    Args:
        name: also the file's name.
        aliases: other accepted names, such as the core whose default this target is.
        core: a key of CORE_FLAGS.
        clock_hz: core clock of the real part; emulators have none.
        flash: where code and weights live.
        ram: where stack, buffers and the arena live.
        qemu_machine: argument of `qemu-system-arm -M`; empty if QEMU has no such machine.
        uart: UART model, one of UARTS.
        uart_base: its first register.
        verified: what has been run on it, in words for `cgate targets`.
        board: chip, pins and tools of a real board; None for Arm's FPGA images.
        energy: the energy model; None where no published run calibrates one.
        flash_access: how long reading the flash takes; None if as long as reading RAM.
        code_ram: where start-up copies the code to, a RAM on the instruction bus; None where code
            runs from flash.
    """

    name: str
    description: str
    aliases: tuple[str, ...]
    core: str
    clock_hz: int
    flash: Region
    ram: Region
    qemu_machine: str
    uart: str
    uart_base: int
    verified: str
    board: Board | None
    energy: Energy | None
    flash_access: FlashAccess | None = None
    code_ram: Region | None = None

    @property
    def chip(self) -> str:
        """Which start-up code of firmware/port/chip it needs."""
        return self.board.chip if self.board else "mps"

    @property
    def cflags(self) -> tuple[str, ...]:
        """GCC flags for the core; where code waits for flash, loops that fit its cache too."""
        waits = self.flash_access is not None and self.code_ram is None
        return ("-mthumb", *CORE_FLAGS[self.core], *(["-DCG_DSP_SHORT_LOOPS"] if waits else []))

    @property
    def has_dsp(self) -> bool:
        """Whether the core has SMLAD and its like."""
        return self.core in DSP_CORES

    @property
    def has_cycle_model(self) -> bool:
        """Whether the plugin's cycles mean anything: they are a Cortex-M4's."""
        return self.core == "cortex-m4"


_FIELDS: dict[str, type] = {
    "description": str,
    "aliases": list,
    "core": str,
    "clock_hz": int,
    "flash": dict,
    "ram": dict,
    "qemu_machine": str,
    "uart": str,
    "uart_base": int,
    "verified": str,
}


def _read_access(table: Mapping[str, Any] | None) -> FlashAccess | None:
    """ValueError where it does not hold the fields of a FlashAccess."""
    kinds = {field.name: field.type for field in fields(FlashAccess)}
    if table is None:
        return None
    if {key: type(value).__name__ for key, value in table.items()} != kinds:
        raise ValueError(f"'flash_access' must hold {', '.join(kinds)}")
    return FlashAccess(**table)


def _read(path: Path) -> Target:
    def broken(why: str) -> CgateError:
        return CgateError(f"target file {path.name}: {why}")

    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise broken(str(error)) from error
    for key, kind in _FIELDS.items():
        if not isinstance(table.get(key), kind):
            raise broken(f"{key!r} must be given, as {kind.__name__}")
    unknown = sorted(
        table.keys() - _FIELDS.keys() - {"board", "energy", "flash_access", "code_ram"}
    )
    if unknown:
        near = difflib.get_close_matches(unknown[0], _FIELDS, 1)
        raise broken(
            f"unknown key {unknown[0]!r}" + (f", did you mean {near[0]!r}?" if near else "")
        )
    if table["core"] not in CORE_FLAGS:
        raise broken(f"core {table['core']!r} is none of {', '.join(CORE_FLAGS)}")
    if table["uart"] not in UARTS:
        raise broken(f"uart {table['uart']!r} is none of {', '.join(UARTS)}")
    try:
        access = _read_access(table.get("flash_access"))
        board = read_board(table.get("board"))
        energy = read_energy(table.get("energy"))
    except ValueError as error:
        raise broken(str(error)) from error
    regions = {}
    for key in ("flash", "ram", *(("code_ram",) if "code_ram" in table else ())):
        region = table[key]
        if (
            not isinstance(region, dict)
            or set(region) != {"origin", "size"}
            or not all(type(n) is int for n in region.values())
        ):
            raise broken(f"{key!r} must be {{ origin = .., size = .. }}")
        regions[key] = Region(region["origin"], region["size"])
    return Target(
        path.stem,
        table["description"],
        tuple(table["aliases"]),
        table["core"],
        table["clock_hz"],
        regions["flash"],
        regions["ram"],
        table["qemu_machine"],
        table["uart"],
        table["uart_base"],
        table["verified"],
        board,
        energy,
        access,
        regions.get("code_ram"),
    )


@cache
def all_targets() -> tuple[Target, ...]:
    """Every known target, by name."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.toml")))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_target(name: str) -> Target:
    """The target of this name or alias; case, hyphens and underscores do not matter.

    Raises:
        CgateError: there is none; the message lists all, the nearest first.
    """
    names = {
        _plain(key): target for target in all_targets() for key in (target.name, *target.aliases)
    }
    if _plain(name) in names:
        return names[_plain(name)]
    spelled = [key for target in all_targets() for key in (target.name, *target.aliases)]
    near = difflib.get_close_matches(name.lower(), spelled, len(spelled), 0.0)
    rest = [key for key in spelled if key not in near]
    raise CgateError(
        f"unknown target {name!r}; known are {', '.join(near + rest)}",
        f"try --target {near[0]}, or `cgate targets` for the whole table",
    )


def stand_in(target: Target) -> Target:
    """The machine that stands in for `target`: of the same core, with memory for anything.

    The target's flash is modelled in it; its own flash can be written, as QEMU emulates it.
    """
    machine = replace(find_target(target.core), flash_access=target.flash_access)
    if target.code_ram is None:
        return machine
    # Room for any program, at the end of its RAM.
    rest = machine.ram.size - STAND_IN_CODE
    code = Region(machine.ram.origin + rest, STAND_IN_CODE)
    return replace(machine, ram=replace(machine.ram, size=rest), code_ram=code)


def roomiest() -> Target:
    """The target with the most memory, for a plan of which only the integers count."""
    return max(all_targets(), key=lambda each: (each.flash.size, each.ram.size))


def emulated(target: Target) -> Target:
    """What runs under QEMU for `target`: itself, or where QEMU has no such board its stand-in."""
    return target if target.qemu_machine else stand_in(target)


def size_text(size: int) -> str:
    """A memory size for people: "512 B", "96.5 kB", "1.95 MB" (K = 1024)."""
    if size < 1024:
        return f"{size} B"
    if size < 1024 * 1024:
        return f"{size / 1024:.1f} kB"
    return f"{size / 1024 / 1024:.2f} MB"


def parse_size(text: str) -> int:
    """Bytes from "512K", "1M", "96 kB", "131072"; K = 1024.

    Raises:
        ValueError: it is no such number, or less than one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmM]?)(?:i?[bB])?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no memory size; write 512K, 1M or a number of bytes")
    size = int(float(match[1]) * {"": 1, "k": 1024, "m": 1024 * 1024}[match[2].lower()])
    if size < 1:
        raise ValueError(f"{text!r} is less than one byte")
    return size

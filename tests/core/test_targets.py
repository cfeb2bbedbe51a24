"""Target tables: complete, found by any spelling, and clear about what is wrong in one."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.core import targets
from cgate.core.board import pin_number
from cgate.core.errors import EXIT_USAGE, CgateError
from cgate.core.targets import CORE_FLAGS, FOLDER, all_targets, find_target, parse_size, size_text

CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")


def test_every_core_has_a_default_target() -> None:
    for core in CORES:
        assert find_target(core).core == core
        assert core in CORE_FLAGS


def test_names_and_aliases_are_unambiguous() -> None:
    names = [targets._plain(n) for t in all_targets() for n in (t.name, *t.aliases)]
    assert len(set(names)) == len(names)


def test_memories_are_aligned_and_do_not_overlap() -> None:
    for target in all_targets():
        flash, ram = target.flash, target.ram
        assert flash.size > 0 and ram.size > 0
        assert flash.origin % 1024 == 0 and ram.origin % 1024 == 0
        regions = [flash, ram, *([target.code_ram] if target.code_ram else [])]
        for a, b in itertools.combinations(regions, 2):
            assert a.origin + a.size <= b.origin or b.origin + b.size <= a.origin


@given(st.sampled_from([n for t in all_targets() for n in (t.name, *t.aliases)]), st.data())
def test_spelling_does_not_matter(name: str, data: st.DataObject) -> None:
    spelled = "".join(
        data.draw(st.sampled_from(["", "-", "_"] if letter == "-" else [letter, letter.upper()]))
        for letter in name
    )
    assert find_target(spelled) is find_target(name)


@given(st.text(max_size=30))
def test_unknown_names_list_every_target(name: str) -> None:
    known = {targets._plain(n) for t in all_targets() for n in (t.name, *t.aliases)}
    if targets._plain(name) in known:
        return
    with pytest.raises(CgateError) as caught:
        find_target(name)
    assert caught.value.code == EXIT_USAGE
    listed = caught.value.message.split("known are ")[-1].split(", ")
    assert sorted(listed) == sorted(n for t in all_targets() for n in (t.name, *t.aliases))
    assert listed[0] in caught.value.hint


def test_memory_of_the_stm32_is_the_chips() -> None:
    # QEMU maps 192 kB at this address; the chip has 128 kB there.
    assert find_target("stm32f405").ram.size == 128 * 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("uart_base = ", "uart_bas = "), "'uart_base' must be given"),
        (('uart = "cmsdk"', 'uart = "16550"'), "uart '16550' is none of"),
        (('core = "cortex-m4"', 'core = "cortex-m99"'), "core 'cortex-m99' is none of"),
        (("clock_hz = 25_000_000", 'clock_hz = "fast"'), "'clock_hz' must be given, as int"),
        (("verified = ", "speed = 3\nverified = "), "unknown key 'speed'"),
        (("origin = ", "start = "), "'flash' must be {"),
        (("[", "[["), "target file broken.toml"),
    ],
)
def test_broken_table(
    change: tuple[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (FOLDER / "mps2-an386.toml").read_text()
    assert change[0] in text
    (tmp_path / "broken.toml").write_text(text.replace(*change))
    with pytest.raises(CgateError) as caught:
        targets._read(tmp_path / "broken.toml")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('chip = "stm32l4"', 'chip = "stm32l9"'), "chip 'stm32l9' is none of"),
        (("pulse = ", "puls = "), "key 'puls' of 'board' is missing or unknown"),
        (('uart_tx = "PG7"', 'uart_tx = "PG16"'), "'PG16' is no pin"),
        (('uart_tx = "PG7"', "uart_tx = 7"), "'uart_tx' of 'board' has the wrong type"),
        (('usb = "0483', 'usb = "483'), "should be vid:pid"),
    ],
)
def test_broken_board(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    text = (FOLDER / "nucleo-l4r5zi.toml").read_text()
    assert change[0] in text
    (tmp_path / "broken.toml").write_text(text.replace(*change))
    with pytest.raises(CgateError) as caught:
        targets._read(tmp_path / "broken.toml")
    assert message in caught.value.message


@given(st.integers(0, 10), st.integers(0, 15))
def test_pins(port: int, number: int) -> None:
    assert pin_number(f"P{'ABCDEFGHIJK'[port]}{number}") == 32 * port + number


@given(st.integers(0, 1), st.integers(0, 31))
def test_nordic_pins(port: int, number: int) -> None:
    assert pin_number(f"P{port}.{number:02}") == 32 * port + number


def test_boards_that_never_ran_on_silicon_say_so() -> None:
    for target in all_targets():
        assert target.board is None or "never run on silicon" in target.verified


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 kB"), (131072, "128.0 kB"), (2 << 20, "2.00 MB")],
)
def test_size_text(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("512K", 524288), ("1M", 1048576), ("96 kB", 98304), ("1.5MiB", 1572864), ("131072", 131072)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "0", "1G", "12 apples", "1e3"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        parse_size(text)

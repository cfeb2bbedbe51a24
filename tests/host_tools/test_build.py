"""Building: reproducible, cached, and clear about what does not fit."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cgate.core.errors import EXIT_CHECK_FAILED, EXIT_TOOL_MISSING, EXIT_USAGE, CgateError
from cgate.core.files import read_json
from cgate.core.targets import all_targets, find_target
from cgate.host_tools import toolchain
from cgate.host_tools.build import STACK_SIZE, build
from cgate.host_tools.plugin import cache_folder, plugin_library
from cgate.host_tools.stack import EXCEPTION_FRAME
from tiny import needs, needs_host, write_bundle

M4 = find_target("cortex-m4")
NETDUINO = find_target("netduinoplus2")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_the_record_and_the_sizes(bundle: Path) -> None:
    needs(toolchain.ARM_GCC)
    built = build(bundle, M4)
    record = read_json(built.folder / "build.json", "record")
    assert built.program.is_file() and built.folder == bundle / "build" / "mps2-an386"
    assert (record["flash"], record["ram"], record["stack"]) == (
        built.flash,
        built.ram,
        built.stack,
    )
    assert built.units == ("stem", "b0.gate", "b0.body", "head")
    # 256 of arena, 60 + 1 of input, 3 of output, and little else.
    assert built.ram is not None and STACK_SIZE + 320 <= built.ram <= STACK_SIZE + 420
    assert built.flash is not None and 1000 < built.flash < 8000
    assert built.stack is not None and 100 < built.stack < 1000


def test_the_arena_counts_as_ram(bundle: Path, tmp_path: Path) -> None:
    needs(toolchain.ARM_GCC)
    small = build(bundle, M4).ram
    large = build(write_bundle(tmp_path / "large", arena=10256), M4).ram
    assert small is not None and large == small + 10000


def test_nothing_is_done_twice(bundle: Path) -> None:
    needs(toolchain.ARM_GCC)
    first = build(bundle, M4)
    before = first.program.stat().st_ino
    assert build(bundle, M4) == first
    assert first.program.stat().st_ino == before
    source = bundle / "c" / "tiny.c"
    source.write_text(source.read_text() + "\n")
    build(bundle, M4)
    assert first.program.stat().st_ino != before


@pytest.mark.parametrize("on", ["qemu", "host"])
def test_the_same_bytes_wherever_the_bundle_lies(on: str, tmp_path: Path) -> None:
    needs(toolchain.ARM_GCC)
    needs_host()
    programs = []
    for folder in (tmp_path / "one", tmp_path / "another" / "deeper"):
        bundle = write_bundle(folder)
        programs.append(build(bundle, M4, on=on).program.read_bytes())
    assert programs[0] == programs[1]
    assert str(tmp_path).encode() not in programs[0]
    assert str(toolchain.firmware_folder()).encode() not in programs[0]


def test_targets_and_io_do_not_share_a_folder(bundle: Path) -> None:
    needs(toolchain.ARM_GCC)
    needs_host()
    builds = [
        build(bundle, M4),
        build(bundle, M4, io="uart"),
        build(bundle, NETDUINO),
        build(bundle, None, on="host"),
    ]
    assert len({built.folder for built in builds}) == 4
    assert builds[3].flash is None


def test_parallel_builds_of_one_bundle(bundle: Path) -> None:
    needs_host()
    with ThreadPoolExecutor(3) as pool:
        builds = list(pool.map(lambda _: build(bundle, None, on="host"), range(6)))
    assert len(set(builds)) == 1
    assert builds[0].program.is_file()


def test_too_much_flash_and_ram(tmp_path: Path) -> None:
    needs(toolchain.ARM_GCC)
    bundle = write_bundle(tmp_path / "big", arena=300_000, table=2_000_000)
    with pytest.raises(CgateError) as caught:
        build(bundle, NETDUINO)
    assert caught.value.code == EXIT_CHECK_FAILED
    text = caught.value.message
    assert "flash of 1.00 MB overflows by" in text and "weights and tables 1.91 MB" in text
    assert "ram of 128.0 kB overflows by" in text
    assert "mps2-an386" in caught.value.hint and "mps3-an547" not in caught.value.hint
    assert not (bundle / "build" / "netduinoplus2").exists()


def test_the_overflow_is_exact(tmp_path: Path) -> None:
    """The arena that just fits fits, and one granule more is reported as such."""
    needs(toolchain.ARM_GCC)
    small = build(write_bundle(tmp_path / "small", arena=256), NETDUINO).ram
    assert small is not None
    room = (NETDUINO.ram.size - small) // 16 * 16
    exact = build(write_bundle(tmp_path / "exact", arena=256 + room), NETDUINO)
    assert exact.ram == small + room
    with pytest.raises(CgateError, match=r"ram of 128\.0 kB overflows by \d+ bytes"):
        build(write_bundle(tmp_path / "over", arena=256 + room + 16), NETDUINO)


def test_code_that_runs_from_ram_lies_there_and_is_loaded_from_flash(bundle: Path) -> None:
    needs(toolchain.ARM_GCC)
    target = find_target("nucleo-l4r5zi")
    built = build(bundle, target)
    assert target.code_ram is not None
    listing = subprocess.run(
        ["arm-none-eabi-nm", built.program], capture_output=True, text=True, check=True
    )
    places = {name: int(at, 16) for at, _, name in map(str.split, listing.stdout.splitlines())}
    for name in ("main", "tiny_run", "cg_conv2d_s8__ref"):
        assert 0 <= places[name] - target.code_ram.origin < target.code_ram.size
    for name in ("cg_reset", "cg_code_load"):
        assert 0 <= places[name] - target.flash.origin < target.flash.size
    assert places["cg_code_start"] == target.code_ram.origin
    assert built.flash is not None
    assert built.flash >= places["cg_code_end"] - places["cg_code_start"]
    tight = replace(target, code_ram=replace(target.code_ram, size=1024))
    with pytest.raises(CgateError, match=r"code of 1\.0 kB overflows by .* which runs from RAM"):
        build(bundle, tight)


def test_nothing_fits_nowhere(tmp_path: Path) -> None:
    needs(toolchain.ARM_GCC)
    largest = max(target.ram.size for target in all_targets())
    with pytest.raises(CgateError) as caught:
        build(write_bundle(tmp_path / "b", arena=largest), M4)
    assert "smaller network" in caught.value.hint


def test_broken_code_is_reported(bundle: Path) -> None:
    needs_host()
    (bundle / "c" / "tiny.c").write_text("int main(void) { return oops; }\n")
    with pytest.raises(CgateError, match="oops"):
        build(bundle, None, on="host")
    assert not (bundle / "build" / "host").exists()


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="plan is missing") as caught:
        build(tmp_path, M4)
    assert caught.value.code == EXIT_USAGE
    bundle = write_bundle(tmp_path / "bundle")
    shutil.rmtree(bundle / "c")
    with pytest.raises(CgateError, match="no bundle"):
        build(bundle, M4)


def test_missing_compilers_are_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    for target, on, name in ((M4, "qemu", "arm-none-eabi-gcc"), (None, "host", "cc")):
        with pytest.raises(CgateError) as caught:
            build(bundle, target, on=on)
        assert caught.value.code == EXIT_TOOL_MISSING
        assert caught.value.message.startswith(f"{name} is needed")
        assert "apt-get install" in caught.value.hint


def test_the_plugin_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_host()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = plugin_library()
    before = first.stat().st_ino
    assert first.parent == tmp_path / "cgate"
    assert plugin_library() == first and first.stat().st_ino == before


@pytest.mark.parametrize("name", ["program", "build.json"])
def test_a_damaged_build_is_built_again(name: str, bundle: Path) -> None:
    needs_host()
    built = build(bundle, None, on="host")
    good = built.program.read_bytes()
    (built.folder / name).write_bytes(b"{")
    assert build(bundle, None, on="host") == built
    assert built.program.read_bytes() == good


def test_a_relative_cache_folder_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "cgate"


def test_the_stack_of_a_program_with_a_clock_holds_its_interrupt(bundle: Path) -> None:
    needs(toolchain.ARM_GCC)
    quiet, ticking = build(bundle, NETDUINO), build(bundle, NETDUINO, io="uart")
    assert quiet.stack is not None and ticking.stack is not None
    assert ticking.stack >= EXCEPTION_FRAME + 8
    assert ticking.stack > quiet.stack

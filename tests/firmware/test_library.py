"""What the library promises: no globals, no libc beyond memcpy and memset, no warnings."""

import shutil
import subprocess
from pathlib import Path

import pytest

from c_programs import FIRMWARE, INCLUDES, PORT, STRICT
from cgate.core.targets import find_target
from cgate.host_tools.build import uart_flags
from cgate.host_tools.toolchain import ARM_GCC, HOST_CC, firmware_folder
from tiny import needs

LIBRARY = sorted((FIRMWARE / "src").rglob("*.c"))
ALLOWED = {"memcpy", "memset", "memmove"}
CLANG = "clang is missing: sudo apt-get install --no-install-recommends clang"


def command(compiler: str) -> list[str]:
    if compiler == "arm-none-eabi-gcc":
        needs(ARM_GCC)
        return [compiler, "-mthumb", "-mcpu=cortex-m4"]
    if compiler == "clang" and shutil.which("clang") is None:
        pytest.skip(CLANG)
    needs(HOST_CC)
    return [compiler]


@pytest.mark.parametrize("compiler", ["cc", "clang", "arm-none-eabi-gcc"])
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_library_compiles_without_warnings(compiler: str, level: str, tmp_path: Path) -> None:
    for source in LIBRARY:
        subprocess.run(
            [*command(compiler), *STRICT, level, *INCLUDES, "-c", source, "-o", tmp_path / "o"],
            check=True,
        )


@pytest.mark.parametrize("compiler", ["clang", "arm-none-eabi-gcc"])
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_helium_kernels_compile_without_warnings(compiler: str, level: str, tmp_path: Path) -> None:
    flags = ["-mthumb", "-mcpu=cortex-m55", "-mfloat-abi=hard", *STRICT, level, *INCLUDES]
    if compiler == "clang":
        flags += ["--target=arm-none-eabi", "-ffreestanding"]
    for source in (FIRMWARE / "src" / "mve").glob("*.c"):
        subprocess.run(
            [command(compiler)[0], *flags, "-c", source, "-o", tmp_path / "o"], check=True
        )


@pytest.mark.parametrize("compiler", ["cc", "clang"])
def test_plugin_compiles_without_warnings(compiler: str, tmp_path: Path) -> None:
    source = FIRMWARE / "plugin" / "cg_plugin.c"
    flags = ["-shared", "-fPIC", "-O2", "-o", str(tmp_path / "plugin.so")]
    subprocess.run([*command(compiler), *STRICT, *flags, source], check=True)


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m3", "cortex-m33", "cortex-m55"])
def test_ports_compile_without_warnings(core: str, tmp_path: Path) -> None:
    needs(ARM_GCC)
    folders = ("cortex_m", "uart", "chip")
    target = find_target("nucleo-l4r5zi")  # its pins serve for every chip
    flags = ["-mthumb", f"-mcpu={core}", *uart_flags(target), *(f"-I{PORT / f}" for f in folders)]
    command = [ARM_GCC.name, *flags, *STRICT, "-O2", *INCLUDES]
    for source in [path for folder in folders for path in (PORT / folder).glob("*.c")]:
        subprocess.run([*command, "-c", source, "-o", tmp_path / "o"], check=True)


def test_headers_are_cpp(tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("c++ is missing: sudo apt-get install --no-install-recommends g++")
    source = tmp_path / "user.cc"
    source.write_text('#include "cgate.h"\nint main() { return CG_ABI_VERSION - 1; }\n')
    command = ["c++", "-std=c++11", "-Wall", "-Wextra", "-Werror", *INCLUDES]
    subprocess.run([*command, "-c", source, "-o", tmp_path / "o"], check=True)


def test_library_needs_nothing_and_keeps_nothing(tmp_path: Path) -> None:
    """No undefined symbols but its own and memcpy and its like; nothing in .data or .bss."""
    needs(ARM_GCC)
    for source in LIBRARY:
        target = tmp_path / f"{source.stem}.o"
        compile_ = [*command("arm-none-eabi-gcc"), "-std=c11", "-O2", *INCLUDES]
        subprocess.run([*compile_, "-c", source, "-o", target], check=True)
        lines = subprocess.run(
            ["arm-none-eabi-nm", target], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        symbols = [line.split()[-2:] for line in lines]
        undefined = {name for kind, name in symbols if kind == "U"}
        assert {name for name in undefined if not name.startswith("cg_")} <= ALLOWED, source.name
        assert not [name for kind, name in symbols if kind in "dDbBC"], source.name
        defined = {name for kind, name in symbols if kind == "T"}
        assert all(name.startswith("cg_") for name in defined), source.name


def test_firmware_folder_is_the_checkout() -> None:
    assert firmware_folder() == Path(__file__).parents[2] / "firmware"

"""Rules about the tree itself that no other tool checks."""

import re
import subprocess
from pathlib import Path

import pytest

from cgate.host_tools.toolchain import firmware_folder

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("train", "export", "host_tools")


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_cgate_stays_a_namespace(root: str) -> None:
    assert not (ROOT / root / "cgate" / "__init__.py").exists()
    for package in (ROOT / root / "cgate").iterdir():
        if package.is_dir() and package.name != "__pycache__":
            assert (package / "__init__.py").is_file() and (package / "py.typed").is_file()


def test_tests_are_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_firmware_is_found_in_this_checkout() -> None:
    assert firmware_folder() == ROOT / "firmware"


def test_makefile_is_short() -> None:
    assert len((ROOT / "Makefile").read_text().splitlines()) <= 40


@pytest.mark.parametrize("script", ["host_tools/setup.sh", ".ci/run"])
def test_scripts_run(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)


def test_setup_explains_what_is_missing_to_a_normal_user(tmp_path: Path) -> None:
    # A PATH with a shell's own tools only, and an `id` that says: not root.
    for name in ("bash", "dirname", "cat"):
        (tmp_path / name).symlink_to(
            Path("/bin") / name if name != "dirname" else "/usr/bin/dirname"
        )
    fake = tmp_path / "id"
    fake.write_text("#!/bin/bash\necho 1000\n")
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "host_tools" / "setup.sh", tmp_path / "venv", "dev"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    (line,) = (line for line in done.stderr.splitlines() if "try:" in line)
    for package in ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm", "clang"):
        assert package in line
    assert "sudo apt-get install" in line and not (tmp_path / "venv").exists()


def test_core_imports_none_of_the_others() -> None:
    foreign = re.compile(r"^\s*(from|import) cgate\.(export|train|host_tools)\b", re.MULTILINE)
    for path in (ROOT / "export" / "cgate" / "core").rglob("*.py"):
        assert not foreign.search(path.read_text()), path

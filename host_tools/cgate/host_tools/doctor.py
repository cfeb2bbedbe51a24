"""What this machine has of what cgate needs, found without importing any of it."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cgate.core.data import DATASETS, find_data
from cgate.core.errors import CgateError


@dataclass(frozen=True)
class Check:
    """One thing that cgate uses.

    Args:
        found: its version or place; empty if it is not there.
        wanted: what would be right, in words.
        purpose: which commands need it.
        required: whether train, build or run cannot work without it.
        fits: whether what was found is right.
        fix: a command that gets it.
    """

    name: str
    found: str
    wanted: str
    purpose: str
    required: bool
    fits: bool
    fix: str

    @property
    def ok(self) -> bool:
        """Found and right."""
        return bool(self.found) and self.fits


def _number(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "1.26.4" -> (1, 26, 4)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


@dataclass(frozen=True)
class _Package:
    """A Python package: lowest version, first version that is too new, extra that brings it."""

    name: str
    low: str
    below: str
    extra: str
    purpose: str


# The same bounds as in pyproject.toml; a test compares the two.
PACKAGES = (
    _Package("numpy", "1.26", "2", "", "all"),
    _Package("click", "8.1", "", "", "all"),
    _Package("rich", "13", "", "", "all"),
    _Package("safetensors", "0.4", "", "", "all"),
    _Package("ai-edge-litert", "2.3.0", "2.3.1", "", "export, verify"),
    _Package("torch", "2.4", "", "train", "train, calibrate"),
    _Package("tflite-runtime", "2.14.0", "2.14.1", "golden", "verify"),
    _Package("scikit-learn", "1.4", "", "demo", "data set digits"),
)


def _package(package: _Package) -> Check:
    try:
        found = version(package.name)
    except PackageNotFoundError:
        found = ""
    number = _number(found)
    fits = number >= _number(package.low) and not (
        package.below and number >= _number(package.below)
    )
    wanted = f">= {package.low}" + (f", < {package.below}" if package.below else "")
    fix = f'pip install "cgate[{package.extra}]"' if package.extra else "pip install cgate"
    # Export, build and run work without the golden interpreter and without scikit-learn.
    required = package.extra in ("", "train")
    return Check(package.name, found, wanted, package.purpose, required, fits, fix)


def _output(command: list[str]) -> str:
    """What a tool prints about itself; empty if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


@dataclass(frozen=True)
class _Tool:
    """A program: what to run to learn its version, and what brings it on Debian and Ubuntu."""

    name: str
    purpose: str
    package: str
    required: bool
    wanted: str = "any"
    probe: tuple[str, ...] = ("--version",)
    fits: Callable[[str], bool] = bool


def _has_newlib(text: str) -> bool:
    return Path(text.strip()).is_absolute()


def _has_plugins(text: str) -> bool:
    return "-plugin" in text


TOOLS = (
    _Tool("arm-none-eabi-gcc", "build", "gcc-arm-none-eabi", True),
    _Tool("qemu-system-arm", "run, verify", "qemu-system-arm", True),
    _Tool("cc", "build --on host, run", "gcc libc6-dev", True),
    _Tool("clang-format", "make lint", "clang-format", False),
    _Tool("chromium", "tests of the report", "chromium", False),
)
# Two properties of tools that are there: a C library to link, and a QEMU with plugin support.
FEATURES = (
    _Tool("newlib (Arm C library)", "build", "libnewlib-arm-none-eabi", True, "libc.a",
          ("arm-none-eabi-gcc", "-print-file-name=libc.a"), _has_newlib),
    _Tool("QEMU plugin support", "run (instruction counts)", "qemu-system-arm", True, "-plugin",
          ("qemu-system-arm", "-help"), _has_plugins),
)  # fmt: skip


def _tool(tool: _Tool) -> Check:
    found = ""
    path = shutil.which(tool.name)
    if path is not None:
        text = _output([path, *tool.probe])
        match = re.search(r"\d+\.\d+(\.\d+)?", text)
        found = match.group() if match else path
    fix = f"sudo apt-get install {tool.package}"
    return Check(tool.name, found, tool.wanted, tool.purpose, tool.required, bool(found), fix)


def _feature(tool: _Tool) -> Check:
    path = shutil.which(tool.probe[0])
    fits = path is not None and tool.fits(_output([path, *tool.probe[1:]]))
    fix = f"sudo apt-get install {tool.package}"
    return Check(
        tool.name, "yes" if fits else "", tool.wanted, tool.purpose, tool.required, fits, fix
    )


def _data(name: str, data_dir: Path | None) -> Check:
    if name == "digits":
        # scikit-learn carries it; its own line says whether that is installed.
        return Check(name, "in scikit-learn", "", "demo", False, True, "")
    try:
        found = str(find_data(name, data_dir))
    except CgateError:
        found = ""
    fix = f"cgate data download {name}"
    return Check(name, found, "", "train, run", False, bool(found), fix)


def examine(data_dir: Path | None = None) -> list[Check]:
    """Check everything; takes about a second and imports no checked package.

    Args:
        data_dir: where data sets are looked for first.
    """
    python = Check(
        "python",
        platform.python_version(),
        ">= 3.11, < 3.12",
        "all",
        True,
        sys.version_info[:2] == (3, 11),
        "sudo apt-get install python3.11 python3.11-venv",
    )
    return [
        python,
        *(_package(package) for package in PACKAGES),
        *(_tool(tool) for tool in TOOLS),
        *(_feature(tool) for tool in FEATURES),
        *(_data(name, data_dir) for name in DATASETS),
    ]

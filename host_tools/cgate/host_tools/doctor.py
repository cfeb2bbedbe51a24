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
from cgate.host_tools.toolchain import ARM_GCC, QEMU, TOOLS, Tool


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
    _Package("onnx", "1.15", "", "onnx", "export --onnx"),
    _Package("scikit-learn", "1.4", "", "demo", "data set digits"),
    _Package("pyserial", "3.5", "", "power", "boards, power meters"),
    _Package("joulescope", "1.1", "", "power", "power"),
    _Package("ppk2-api", "0.9.2", "", "power", "power"),
    _Package("otii-tcp-client", "1.0.13", "", "power", "power"),
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


OPTIONAL_TOOLS = (
    Tool("clang-format", "clang-format", "run `make lint`"),
    Tool("chromium", "chromium", "test the report in a browser"),
)


def _tool(tool: Tool, required: bool) -> Check:
    found = ""
    path = shutil.which(tool.name)
    if path is not None:
        match = re.search(r"\d+\.\d+(\.\d+)?", _output([path, "--version"]))
        found = match.group() if match else path
    # A version that cannot be read is not held against the tool.
    number = _number(found)
    fits = not number or (
        number >= _number(tool.low) and not (tool.below and number >= _number(tool.below))
    )
    return Check(tool.name, found, tool.wanted, tool.purpose, required, fits, tool.install)


def _feature(name: str, tool: Tool, argument: str, present: Callable[[str], bool]) -> Check:
    """A property of a tool: `present` decides on what the tool prints for `argument`."""
    path = shutil.which(tool.name)
    fits = path is not None and present(_output([path, argument]))
    return Check(name, "yes" if fits else "", "yes", tool.purpose, True, fits, tool.install)


def _features() -> list[Check]:
    return [
        # Without a library GCC prints the bare name back, with one its path.
        _feature(
            "newlib for Arm",
            ARM_GCC,
            "-print-file-name=libc.a",
            lambda text: Path(text.strip()).is_absolute(),
        ),
        _feature("QEMU with plugins", QEMU, "-help", lambda text: "-plugin" in text),
    ]


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
        *(_tool(tool, required=True) for tool in TOOLS),
        *(_tool(tool, required=False) for tool in OPTIONAL_TOOLS),
        *_features(),
        *(_data(name, data_dir) for name in DATASETS),
    ]

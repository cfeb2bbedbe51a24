"""`cgate doctor` on this machine, and on one without any tool."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cgate.host_tools.cli import main
from cgate.host_tools.doctor import PACKAGES, examine

ROOT = Path(__file__).parents[2]


def test_finds_what_is_running_this_test() -> None:
    checks = {check.name: check for check in examine()}
    for name in ("python", "numpy", "click", "rich", "safetensors"):
        assert checks[name].ok, checks[name]
    assert checks["python"].found == ".".join(str(n) for n in sys.version_info[:3])


def test_without_any_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CGATE_DATA_DIR", raising=False)
    assert main(["doctor"]) == 3
    captured = capsys.readouterr()
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm", "cc"):
        (line,) = (line for line in captured.out.splitlines() if f"  {tool} " in line)
        assert line.startswith("MISSING") and "sudo apt-get install" in line
    (line,) = (line for line in captured.out.splitlines() if "  clang-format " in line)
    assert line.startswith("absent")
    assert "error: missing: arm-none-eabi-gcc" in captured.err
    assert main(["doctor", "--json"]) == 3
    value = json.loads(capsys.readouterr().out)
    assert value["status"] == 3 and len(value["errors"]) == 1
    assert {"name", "found", "wanted", "purpose", "required", "ok", "fix"} <= set(
        value["data"]["checks"][0]
    )


def test_qemu_without_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "qemu-system-arm"
    fake.write_text("#!/bin/sh\necho 'QEMU emulator version 7.2.0'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    checks = {check.name: check for check in examine()}
    assert checks["qemu-system-arm"].found == "7.2.0" and checks["qemu-system-arm"].ok
    assert not checks["QEMU with plugins"].ok


def test_bounds_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {"": project["dependencies"], **extras}
    for package in PACKAGES:
        (line,) = (
            line
            for line in wanted[package.extra]
            if re.split("[<>=]", line)[0] == package.name
        )  # fmt: skip
        bounds = dict(re.findall(r"(==|>=|<)([\d.]+)", line))
        if "==" in bounds:
            assert bounds["=="] == package.low and package.below
        else:
            assert (bounds[">="], bounds.get("<", "")) == (package.low, package.below)
    core = {re.split("[<>=]", line)[0] for line in project["dependencies"]}
    assert core == {package.name for package in PACKAGES if not package.extra}


def test_imports_nothing_to_learn_a_version() -> None:
    code = (
        "import sys; from cgate.host_tools.doctor import examine; examine(); "
        "print([m for m in ('torch', 'sklearn', 'ai_edge_litert', 'tflite_runtime') "
        "if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"

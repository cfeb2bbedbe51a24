"""The frame around the commands: help, errors, exit codes, JSON, laziness."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgate.core.targets import all_targets
from cgate.host_tools.cli import COMMANDS, main

ALL = [[name] for name in COMMANDS if name != "data"]
ALL += [["data", name] for name in ("list", "check", "download")]
HEAVY = ("torch", "tensorflow", "onnx", "ai_edge_litert", "tflite_runtime", "sklearn")

Captured = pytest.CaptureFixture[str]


def python(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that sees the same packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def envelope(capsys: Captured) -> dict[str, object]:
    """The one JSON object on stdout; nothing may be on stderr."""
    captured = capsys.readouterr()
    assert captured.err == ""
    value = json.loads(captured.out)
    assert list(value) == ["schema", "cgate", "command", "status", "data", "errors"]
    assert value["schema"] == 1
    for error in value["errors"]:
        assert set(error) == {"message", "hint"} and error["message"]
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_help_has_an_example(command: list[str], capsys: Captured) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"cgate {' '.join(command)}" in text.split("Examples:")[1]
    for option in ("--json", "--quiet", "--debug"):
        assert option in text


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_documents_commands_and_exit_codes(arguments: list[str], capsys: Captured) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in text
    for code in ("0", "1", "2", "3", "4", "130"):
        assert f" {code}  " in text.split("Exit codes:")[1]


def test_version(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cgate, version ")


def test_help_imports_nothing_heavy() -> None:
    calls = [["--help"], *([*command, "--help"] for command in ALL)]
    done = python(
        "import sys\nfrom cgate.host_tools.cli import main\n"
        f"codes = [main(call) for call in {calls!r}]\n"
        f"print(codes, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    assert done.stderr.strip() == f"{[0] * len(calls)} []"


def test_unknown_command_names_the_nearest(capsys: Captured) -> None:
    assert main(["exprot"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: unknown command 'exprot'" in captured.err
    assert "  try: cgate export" in captured.err
    assert main(["data", "lits"]) == 2
    assert "  try: cgate data list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["export"], "--out"),
        (["export", "--out", "x"], "SOURCE or --checkpoint"),
        (["export", "x", "--flash", "1G", "--out", "y"], "memory size"),
        (["export", "x", "-t", "stm32f405", "--ram", "129K", "--out", "y"], "more than the target"),
        (["run"], "BUNDLE"),
        (["run", "x", "--gates", "ajar"], "ajar"),
        (["run", "x", "--limit", "0"], "0 is not in the range"),
        (["targets", "--jsonn"], "--jsonn"),
        (["data"], "Missing command"),
    ],
)
def test_bad_usage(arguments: list[str], text: str, capsys: Captured) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and text in captured.err and "--help" in captured.err


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["--json"], None),
        (["exprot", "--json"], None),
        (["run", "--json"], "run"),
        (["--json", "run", "missing-bundle"], "run"),
        (["data", "check", "imagenet", "--json"], "data check"),
    ],
)
def test_errors_come_as_json_too(
    arguments: list[str], command: str | None, capsys: Captured
) -> None:
    assert main(arguments) == 2
    value = envelope(capsys)
    assert (value["command"], value["status"], value["data"]) == (command, 2, None)
    assert value["errors"]


@pytest.mark.parametrize("name", ["m5", "cortex-m44", "netduino"])
def test_unknown_target_lists_the_nearest_first(
    name: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["export", "x", "--target", name, "--out", str(tmp_path / "b")]) == 2
    message = capsys.readouterr().err
    first = message.split("known are ")[1].split(",")[0]
    assert first == {"m5": "m55", "cortex-m44": "cortex-m4", "netduino": "netduinoplus2"}[name]
    assert all(target.name in message for target in all_targets())
    assert f"try: --target {first}" in message


@pytest.mark.parametrize("command", ["build", "run", "verify", "report"])
def test_missing_bundle(command: str, tmp_path: Path, capsys: Captured) -> None:
    assert main([command, str(tmp_path / "none")]) == 2
    message = capsys.readouterr().err
    assert f"no bundle folder {tmp_path / 'none'}" in message.replace("\n", " ")
    assert "cgate export" in message


def test_missing_checkpoint(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "bundle"
    assert main(["export", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "no checkpoint folder" in capsys.readouterr().err
    assert not out.exists()


def test_missing_package_names_its_extra(tmp_path: Path) -> None:
    # None in sys.modules makes Python behave as if the package were not installed.
    done = python(
        "import sys\nsys.modules['torch'] = None\nfrom cgate.host_tools.cli import main\n"
        f"sys.exit(main(['train', '--recipe', 'demo', '--out', {str(tmp_path / 'c')!r}]))"
    )
    assert done.returncode == 3
    assert "package torch" in done.stderr and 'pip install "cgate[train]"' in done.stderr


def test_interrupt_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cgate.host_tools.commands.targets.all_targets", interrupt)
    assert main(["targets"]) == 130
    assert capsys.readouterr().err.strip() == "error: interrupted"
    assert main(["targets", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["status"] == 130


def test_defect_is_told_from_a_failed_check(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail() -> None:
        raise ValueError("surprise")

    monkeypatch.setattr("cgate.host_tools.commands.targets.all_targets", fail)
    assert main(["targets"]) == 70
    message = capsys.readouterr().err
    assert "internal error: ValueError: surprise" in message and "Traceback" not in message
    assert main(["targets", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_closed_pipe_is_quiet() -> None:
    command = [sys.executable, "-m", "cgate.host_tools", "targets"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_targets(capsys: Captured) -> None:
    assert main(["targets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [target.name for target in all_targets()]
    assert main(["targets", "--json"]) == 0
    data = envelope(capsys)["data"]
    assert isinstance(data, dict)
    assert {"name", "aliases", "core", "flash", "ram", "verified"} <= set(data["targets"][0])


def test_data_list_and_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delenv("CGATE_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["data", "list", "--json"]) == 0
    data = envelope(capsys)["data"]
    assert isinstance(data, dict)
    found = {item["name"]: item["present"] for item in data["data_sets"]}
    assert found["cifar10"] is False and found["cifar100"] is False
    assert main(["data", "check", "cifar10"]) == 2
    assert "cgate data download cifar10" in capsys.readouterr().err


def test_colour_stays_out_of_pipes(capsys: Captured) -> None:
    assert main(["run", "missing"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_full_disk_is_no_traceback() -> None:
    command = [sys.executable, "-m", "cgate.host_tools", "targets"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: cannot write the result: No space left on device"

"""`cgate demo`: the whole chain under QEMU, from an already trained checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from cgate.core.files import read_json
from cgate.host_tools.cli import main
from cgate.host_tools.demo import SCALES, STAGES
from cgate.train.recipes import find_recipe


@pytest.fixture
def folder(digits_checkpoint: Path, tmp_path: Path) -> Path:
    shutil.copytree(digits_checkpoint, tmp_path / "demo" / "checkpoint")
    return tmp_path / "demo"


def arguments(folder: Path) -> list[str]:
    epochs = read_json(folder / "checkpoint" / "card.json", "the card")["epochs"]
    return ["demo", "--out", str(folder), "--limit", "20", "--epochs", str(epochs)]


@pytest.mark.qemu
@pytest.mark.slow
def test_whole_chain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(folder)) == 0
    captured = capsys.readouterr()
    last = Path(captured.out.splitlines()[-1])
    assert last == folder / "bundle" / "report.html" and last.is_file()
    assert "20 of 400 test images under QEMU" in captured.err
    found = [
        line.split()[1] for line in captured.err.splitlines() if line.startswith("[")
    ]  # fmt: skip
    assert tuple(found) == STAGES

    value = json.loads((folder / "bundle" / "report.json").read_text())
    assert value["run"]["images"] == 20 and value["run"]["runner"] == "qemu"
    assert value["agreement"]["equal"]
    assert {each["route"] for each in value["agreement"]["comparisons"]} == {
        "tflite", "network", "host", "qemu",
    }  # fmt: skip
    assert f"{value['instructions']['mean']:,.0f}" in captured.out
    assert value["verdict"]["text"] in captured.out
    assert json.loads((folder / "bundle" / "measure.json").read_text())["images"] == 20
    # All gates open costs more than as learned; without gates less than with open ones.
    opened = value["instructions"]["all_open"]
    assert opened["without_gates_mean"] < opened["mean"]
    assert value["instructions"]["max"] <= opened["mean"] * 1.01

    first = last.read_bytes()
    assert main([*arguments(folder), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["html"] == str(last) and last.read_bytes() == first


def test_scales_name_recipes_of_their_data_set() -> None:
    for data, scale in SCALES.items():
        assert find_recipe(scale.recipe).data == data


def test_missing_tools_are_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 3
    assert "arm-none-eabi-gcc is needed" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()

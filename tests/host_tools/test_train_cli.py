"""`cgate train` and `cgate sweep` as commands; what they compute is tested in tests/train."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')
pytest.importorskip("sklearn", reason="pip install scikit-learn")

from cgate.core.files import read_json
from cgate.core.plan import load_bundle
from cgate.host_tools.cli import main
from cgate.host_tools.inputs import guess_data

Captured = pytest.CaptureFixture[str]
SMALL = ["--recipe", "demo", "--network", "resnet8", "--width", "0.25", "--limit", "128"]


def data_of(capsys: Captured) -> dict[str, object]:
    value: dict[str, object] = json.loads(capsys.readouterr().out)["data"]
    return value


def test_train_takes_what_changes_the_recipe(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "run"
    options = [*SMALL, "--seed", "3", "--epochs", "1", "--lr", "0.05", "--tau", "0.6"]
    assert main(["train", *options, "--out", str(out), "--json"]) == 0
    recipe = read_json(out / "card.json", "card")["recipe"]
    expected = {"model": "resnet8", "width": 0.25, "seed": 3, "epochs": 1, "limit": 128}
    expected |= {"lr": 0.05, "tau": 0.6}
    assert {key: recipe[key] for key in expected} == expected


def test_the_benchmark_says_that_it_estimates(tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", *SMALL, "--benchmark", "1"]) == 0
    assert "an estimate" in capsys.readouterr().out
    assert main(["train", *SMALL, "--benchmark", "1", "--json"]) == 0
    data = data_of(capsys)
    assert data["steps"] == 1 and data["network"] == "resnet8-x0.25"


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ([], "exit"),
        (["--gate", "controller"], "cgate-controller"),
        (["--gate", "none"], "cgate-dense"),
    ],
)
def test_the_default_is_what_the_benchmark_of_gates_supports(
    options: list[str], recipe: str, capsys: Captured
) -> None:
    small = ["--data", "digits", "--width", "0.25", "--limit", "128", "--dtype", "float32"]
    assert main(["train", *small, *options, "--benchmark", "1", "--json"]) == 0
    assert data_of(capsys)["recipe"] == recipe


@pytest.mark.parametrize("options", [[], ["--out", "x", "--benchmark", "3"]])
def test_train_wants_a_folder_or_a_benchmark(options: list[str], capsys: Captured) -> None:
    assert main(["train", "--recipe", "demo", *options]) == 2
    assert "either --out FOLDER or --benchmark STEPS" in capsys.readouterr().err


def test_margins_take_one_budget(tmp_path: Path, capsys: Captured) -> None:
    options = ["--recipe", "exit-digits", "--epochs", "1", "--width", "0.25", "--limit", "128"]
    trained, chosen = str(tmp_path / "exit"), str(tmp_path / "half")
    assert main(["train", *options, "--out", trained]) == 0
    assert "left behind s1b1" in capsys.readouterr().out
    assert main(["margins", trained, "--share", "0.5", "--out", chosen]) == 0
    assert "left behind s1b1" in capsys.readouterr().out
    for budget in ([], ["--share", "0.5", "--loss", "0.1"]):
        assert main(["margins", trained, *budget, "--out", chosen]) == 2
        assert "either --share or --loss" in capsys.readouterr().err


def test_an_unknown_network_lists_all(tmp_path: Path, capsys: Captured) -> None:
    arguments = ["train", "--recipe", "demo", "--network", "vgg", "--out", str(tmp_path / "x")]
    assert main(arguments) == 2
    assert "mobilenetv2" in capsys.readouterr().err


def test_gate_and_ablation_change_the_recipe(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "run"
    options = ["--gate", "cir-predicted", "--ablation", "soft-gates", "--epochs", "1"]
    assert main(["train", *SMALL, *options, "--out", str(out)]) == 0
    text = capsys.readouterr()
    assert "predicted CIR s1b0" in text.out and "next: cgate export" in text.err
    recipe = read_json(out / "card.json", "card")["recipe"]
    assert recipe["name"] == "demo-cir-predicted-soft-gates"
    assert (recipe["gate"]["kind"], recipe["hard"]) == ("cir-predicted", False)


@pytest.mark.parametrize(
    ("option", "listed"), [("--gate", "cir-predicted"), ("--ablation", "immediate-penalty")]
)
def test_an_unknown_gate_or_ablation_lists_all(
    option: str, listed: str, tmp_path: Path, capsys: Captured
) -> None:
    arguments = ["train", "--recipe", "demo", option, "x", "--out", str(tmp_path / "x")]
    assert main(arguments) == 2
    assert listed in capsys.readouterr().err


def test_the_other_processes_of_torchrun_say_nothing(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", *SMALL, "--epochs", "1", "--out", out, "--quiet"]) == 0
    assert capsys.readouterr().out
    # A finished run needs no other process.
    monkeypatch.setenv("RANK", "1")
    assert main(["train", *SMALL, "--epochs", "1", "--out", out, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_sweep_lists_trials_and_finishes_the_chosen(tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("optuna", reason='pip install "cgate[train]"')
    options = [*SMALL, "--epochs", "1", "--search", "tau=0.5,0.9", "--out", str(tmp_path)]
    assert main(["sweep", *options, "--finish", "--json"]) == 0
    data = data_of(capsys)
    assert isinstance(data["trials"], list) and isinstance(data["cards"], list)
    assert {trial["tau"] for trial in data["trials"]} == {0.5, 0.9}
    assert len(data["cards"]) == 1
    assert (tmp_path / "results.csv").is_file()
    assert main(["sweep", *options, "--max-share", "0.001", "--finish"]) == 2
    assert "no trial can be chosen" in capsys.readouterr().err


def test_data_sets_of_one_shape_are_told_apart_by_their_classes(digits_bundle: Path) -> None:
    plan = load_bundle(digits_bundle).plan
    assert guess_data(plan) == "digits"
    photographs = replace(plan, network=replace(plan.network, input_shape=(32, 32, 3)))
    assert guess_data(photographs) == "svhn"
    assert guess_data(replace(photographs, classes=("airplane", *plan.classes[1:]))) == "cifar10"
    assert guess_data(replace(photographs, classes=("cat", *plan.classes[1:]))) == "cifar10"

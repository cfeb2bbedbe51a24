"""The commands on a real bundle, run on this machine: their results as text, JSON and files."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgate.core.data import Dataset, Split, load_dataset
from cgate.core.plan import load_bundle
from cgate.host_tools.cli import main
from synthetic import small_network, write_checkpoint

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "bundle"
    shutil.copytree(digits_bundle, folder)
    return folder


def call(capsys: Captured, *arguments: object, code: int = 0) -> Any:
    """The JSON data of a command, which must end with `code` and say nothing else."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == code
    captured = capsys.readouterr()
    assert captured.err == ""
    value = json.loads(captured.out)
    assert value["status"] == code and value["command"] == arguments[0]
    return value["data"]


def test_export(digits_checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "bundle"
    one = call(capsys, "export", digits_checkpoint, "--target", "m4", "--out", out)
    assert one["bundle"] == str(out) and one["plan_sha256"] == load_bundle(out).sha256
    other = tmp_path / "other"
    two = call(
        capsys, "export", "--checkpoint", digits_checkpoint, "--board", "CORTEX_M4", "--out", other
    )
    assert two["plan_sha256"] == one["plan_sha256"]


def test_export_into_somebodys_folder(
    digits_checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["export", str(digits_checkpoint), "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_export_where_nothing_can_be_written(
    digits_checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "file").touch()
    assert main(["export", str(digits_checkpoint), "--out", str(tmp_path / "file" / "b")]) == 2
    message = capsys.readouterr().err
    assert "cannot write" in message and "choose a folder" in message


def test_build_and_run_on_this_machine(bundle: Path, capsys: Captured) -> None:
    built = call(capsys, "build", bundle, "--on", "host")
    assert Path(built["program"]).is_file() and built["flash"] is None
    ran = call(capsys, "run", bundle, "--on", "host", "--limit", 50)
    assert ran["data"] == "digits" and ran["images"] == 50 and ran["instructions"] is None
    assert Path(ran["trace"]) == bundle / "runs" / "test-50-host" / "trace.json"
    assert 0 < ran["macs"]["share"] <= 1.01
    gates = load_bundle(bundle).plan.gates
    assert [gate["name"] for gate in ran["gates"]] == [unit.name for unit in gates]


def test_shut_gates_cost_less_than_open_ones(bundle: Path, capsys: Captured) -> None:
    means = {
        gates: call(
            capsys, "run", bundle, "--on", "host", "--limit", 5, "--gates", gates
        )["macs"]["executed"]["mean"]
        for gates in ("open", "shut")
    }  # fmt: skip
    plan = load_bundle(bundle).plan
    bodies = sum(unit.macs for unit in plan.units if unit.condition is not None)
    assert means["open"] - means["shut"] == bodies
    assert (bundle / "runs" / "test-5-open-host" / "trace.json").is_file()


def test_run_text(bundle: Path, capsys: Captured) -> None:
    assert main(["run", str(bundle), "--on", "host", "--limit", "5", "--name", "five"]) == 0
    captured = capsys.readouterr()
    assert "5 of 400 test images of digits" in captured.out
    assert "of 1,632,128 dense" in captured.out
    trace, report = captured.out.splitlines()[-2:]
    assert trace.endswith("runs/five/trace.json")
    assert report.endswith(f"cgate report {bundle}")
    assert "run on host" in captured.err
    assert main(["run", str(bundle), "--on", "host", "--limit", "5", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a b"])
def test_run_name_stays_inside_runs(name: str, bundle: Path, capsys: Captured) -> None:
    assert main(["run", str(bundle), "--on", "host", "--limit", "1", "--name", name]) == 2
    assert "cannot name a run" in capsys.readouterr().err


def test_verify_on_this_machine(bundle: Path, capsys: Captured) -> None:
    found = call(capsys, "verify", bundle, "--on", "host", "--limit", 10)
    assert found["equal"] and found["images"] == 10
    assert json.loads((bundle / "verify.json").read_text()) == found


def test_verify_finds_a_changed_weight(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("build", "runs"))
    source = folder / "c" / "model_weights.c"
    text, count = re.subn(r"(model_stem_bias\[16\] = \{\s*)", r"\1 12345 + ", source.read_text())
    assert count == 1
    source.write_text(text)
    found = call(capsys, "verify", folder, "--on", "host", "--limit", 3, code=1)
    assert not found["equal"] and found["comparisons"][0]["difference"]["unit"] == "stem"


def test_images_of_another_shape(
    bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(name: str, data_dir: Path | None = None) -> Dataset:
        digits = load_dataset("digits")
        split = Split(digits.test.images[:, :, :7], digits.test.labels)
        return replace(digits, train=split, validation=split, test=split)

    monkeypatch.setattr("cgate.host_tools.inputs.load_dataset", other)
    assert main(["run", str(bundle), "--data", "digits"]) == 2
    message = capsys.readouterr().err
    assert "images of 8x7x1" in message and "takes 8x8x1" in message


def test_unknown_data(bundle: Path, capsys: Captured) -> None:
    assert main(["run", str(bundle), "--data", "imagenet"]) == 2
    assert "unknown data set 'imagenet'" in capsys.readouterr().err


def test_calibrate(digits_checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(digits_checkpoint, folder)
    before = (folder / "ranges.json").read_bytes()
    (folder / "ranges.json").unlink()
    call(capsys, "calibrate", folder)
    assert (folder / "ranges.json").read_bytes() == before


def test_train_lists_recipes_for_an_unknown_one(tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", "--recipe", "demmo", "--out", str(tmp_path / "c")]) == 2
    message = capsys.readouterr().err
    assert "unknown recipe 'demmo'" in message and "--recipe demo" in message


def test_train_of_a_finished_checkpoint(digits_checkpoint: Path, capsys: Captured) -> None:
    data = call(
        capsys, "train", "--recipe", "demo", "--epochs", 2, "--out", digits_checkpoint
    )  # fmt: skip
    assert data["card"]["recipe"]["name"] == "demo" and data["folder"] == str(digits_checkpoint)


def test_a_network_without_gates(tmp_path: Path, capsys: Captured) -> None:
    gated = small_network()
    dense = replace(gated, blocks=tuple(replace(block, gate=None) for block in gated.blocks))
    write_checkpoint(tmp_path / "checkpoint", dense, images=2)
    bundle = tmp_path / "bundle"
    call(capsys, "export", tmp_path / "checkpoint", "--out", bundle)
    ran = call(capsys, "run", bundle, "--on", "host", "--limit", 3)
    assert ran["images"] == 3 and ran["gates"] == [] and ran["macs"]["share"] == 1
    call(capsys, "report", bundle)


def test_being_terminated_ends_like_ctrl_c() -> None:
    script = (
        "import os, signal, sys, threading; from cgate.host_tools import cli, runner\n"
        "def hang(*a, **k):\n"
        "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "    threading.Event().wait(60)\n"
        "cli.cgate.main = hang\n"
        "sys.exit(cli.main(['targets']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130 and "interrupted" in done.stderr

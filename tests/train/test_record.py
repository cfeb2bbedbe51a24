"""The run folder: what it says, and that TensorBoard and the pictures say the same."""

import csv
import json
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason='pip install "cgate[train]"')
pytest.importorskip("matplotlib", reason='pip install "cgate[train]"')
pytest.importorskip("tensorboard", reason='pip install "cgate[train]"')

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cgate.core.data import load_dataset
from cgate.core.progress import Silent
from cgate.train.curves import SIZE_INCHES, write_curves
from cgate.train.loop import train
from cgate.train.recipes import Recipe, recipe_from_json
from cgate.train.record import Record, duration


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = EventAccumulator(str(folder / "tensorboard"))
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_run_json_holds_all_that_made_the_run(trained: Path, tiny: Recipe) -> None:
    run = json.loads((trained / "run.json").read_text())
    assert recipe_from_json(run["recipe"]) == tiny
    card = json.loads((trained / "card.json").read_text())
    assert run["network"] == card["network"] and run["environment"] == card["environment"]
    assert run["data"] == {"name": "digits", "md5": load_dataset("digits").md5}
    assert len(run["seconds"]) == tiny.epochs and min(run["seconds"]) >= 0


def test_the_explanation_names_every_file_and_column(trained: Path) -> None:
    text = (trained / "README.txt").read_text()
    for path in trained.iterdir():
        assert path.name in text or path.name == "README.txt"
    for column in rows(trained)[0]:
        assert column.split("_")[0] in text


def test_events_say_what_the_log_says(trained: Path) -> None:
    found = events(trained)
    log = rows(trained)
    for column in log[0].keys() - {"epoch"}:
        expected = [(int(row["epoch"]), float(row[column])) for row in log]
        points = found[column.replace("_", "/", 1)]
        assert [step for step, _ in points] == [step for step, _ in expected]
        assert [value for _, value in points] == pytest.approx([v for _, v in expected], abs=1e-6)


@pytest.mark.parametrize("copied", [False, True])
def test_a_resumed_run_has_each_epoch_once(copied: bool, tiny: Recipe, tmp_path: Path) -> None:
    class Stop(Silent):
        def message(self, text: str) -> None:
            if text.startswith("epoch 2/"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, progress=Stop())
    assert (tmp_path / "curves.png").exists()
    if copied:  # without its events, which are made from the log
        shutil.rmtree(tmp_path / "tensorboard")
    train(tiny, tmp_path, progress=Silent())
    assert [step for step, _ in events(tmp_path)["train/loss"]] == [1, 2, 3]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert len(json.loads((tmp_path / "run.json").read_text())["seconds"]) == 3


def test_a_run_killed_before_its_epoch_was_timed_goes_on(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch's state is written first, then its time: in between, a process can be killed."""

    def killed(*_: object) -> str:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Record, "epoch", killed)
        train(tiny, tmp_path, progress=Silent())
    assert train(tiny, tmp_path, progress=Silent())["epochs"] == tiny.epochs
    assert len(rows(tmp_path)) == tiny.epochs


def test_every_epoch_says_how_long_is_left(tiny: Recipe, tmp_path: Path) -> None:
    heard: list[str] = []

    class Recorder(Silent):
        def message(self, text: str) -> None:
            if text.startswith("epoch"):
                heard.append(text)

    train(tiny, tmp_path, epochs=2, progress=Recorder())
    assert heard[0].endswith(" left") and not heard[1].endswith(" left")


@pytest.mark.parametrize("epochs", [1, 40])
def test_curves_are_a_picture_of_the_stated_size(tmp_path: Path, epochs: int) -> None:
    log = [
        {
            "epoch": epoch,
            "lr": 0.1,
            "train_loss": 1 / epoch,
            "train_share": 0.9,
            "validation_accuracy": 1 - 1 / epoch,
            "executed_share": 0.8,
            "open_s1b0": 0.5,
            "left_s2b0": 0.25,
        }
        for epoch in range(1, epochs + 1)
    ]
    path = tmp_path / "curves.png"
    assert write_curves(path, log, 0.7)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == tuple(int(100 * inch) for inch in SIZE_INCHES)
    write_curves(path, log, 0.7)
    assert path.read_bytes() == data


@given(st.floats(0, 1e6))
def test_durations_are_short_and_close(seconds: float) -> None:
    text = duration(seconds)
    assert len(text) <= 12
    units = {"s": 1, "min": 60, "h": 3600}
    words = text.split()
    total = sum(float(n) * units[unit] for n, unit in zip(words[::2], words[1::2], strict=True))
    assert total == pytest.approx(seconds, abs=60 if seconds >= 99 else 0.5)

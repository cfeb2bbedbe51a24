import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')
pytest.importorskip("matplotlib", reason='pip install "cgate[train]"')
pytest.importorskip("tensorboard", reason='pip install "cgate[train]"')

import torch
from safetensors.numpy import load_file, save_file

from cgate.core.checkpoint import PATTERNS, load_checkpoint
from cgate.core.data import load_dataset
from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.network import network_macs
from cgate.core.progress import Silent
from cgate.train.evaluate import evaluate
from cgate.train.gates import all_open, fixed
from cgate.train.loop import one_cycle, train
from cgate.train.ranges import load_model
from cgate.train.recipes import Recipe, find_recipe
from cgate.train.resume import check_recipe

# The same bytes for the same recipe; run.json and the events also tell of time.
SAME = {
    "README.txt",
    "card.json",
    "curves.png",
    "log.csv",
    "model.safetensors",
    "ranges.json",
}
FILES = SAME | {"run.json", "tensorboard"}
UNFINISHED = (FILES | {"last.safetensors", "state.json"}) - {
    "card.json",
    "model.safetensors",
    "ranges.json",
}


class Recorder(Silent):
    """Keeps the messages, and presses Ctrl-C after so many steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.messages: list[str] = []
        self.left = stop_after

    def message(self, text: str) -> None:
        self.messages.append(text)

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self.left is not None and note:
            self.left -= steps
            if self.left == 0:
                raise KeyboardInterrupt


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_run_is_a_checkpoint(trained: Path, tiny: Recipe) -> None:
    assert names(trained) == FILES
    checkpoint = load_checkpoint(trained)
    digits = load_dataset("digits")
    assert checkpoint.network == tiny.network(digits)
    card = checkpoint.card
    assert card["recipe"] == json.loads(json.dumps(tiny.to_json()))
    assert card["data"] == {"name": "digits", "md5": digits.md5, "classes": list(digits.classes)}
    assert (card["seed"], card["epochs"]) == (0, 3)
    assert card["environment"]["torch"] == torch.__version__
    assert checkpoint.ranges["input"].keys() == set(PATTERNS)


def test_the_card_tells_what_the_weights_do(trained: Path) -> None:
    model, card = load_model(trained)
    digits = load_dataset("digits")
    test = evaluate(model, digits.test)
    assert card["accuracy"] == {
        "validation": evaluate(model, digits.validation).accuracy,
        "test": test.accuracy,
        "images": {"validation": 200, "test": 400},
    }
    assert card["executed_macs"] == test.executed_macs
    assert card["dense_macs"] == network_macs(model.network).dense
    for block, rates in card["open_rates"].items():
        assert rates == {"all": test.open_rates[block], "by_class": test.by_class[block]}
    validation = evaluate(model, digits.validation).open_rates
    majority = fixed({block: rate > 0.5 for block, rate in validation.items()})
    for control, policy in (("open", all_open), ("majority", majority)):
        expected = evaluate(model, digits.test, policy, fixed=control == "majority")
        assert card["controls"][control] == {
            "accuracy": expected.accuracy,
            "executed_macs": expected.executed_macs,
        }
    assert card["controls"].keys() == {"open", "majority", "shuffled"}


def test_the_log_has_a_row_per_epoch(trained: Path, tiny: Recipe) -> None:
    with (trained / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    # Four steps per epoch; the rate is that of the middle of the epoch's last step.
    rates = [tiny.lr * one_cycle((4 * epoch - 0.5) / 12, tiny.rise) for epoch in (1, 2, 3)]
    assert [float(row["lr"]) for row in rows] == pytest.approx(rates, abs=1e-6)
    accuracy = json.loads((trained / "card.json").read_text())["accuracy"]["validation"]
    assert float(rows[-1]["validation_accuracy"]) == pytest.approx(accuracy)


@pytest.mark.parametrize("stop_after", [2, 6])
def test_a_stopped_run_goes_on_to_the_same_bits(
    trained: Path, tiny: Recipe, tmp_path: Path, stop_after: int
) -> None:
    out = tmp_path / "run"
    first = Recorder(stop_after)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, out, progress=first)
    if stop_after == 6:  # in the second epoch of four steps
        assert names(out) == UNFINISHED
        assert "epoch 1 of 3 is saved" in first.messages[-1]
    else:
        assert first.messages == ["stopped before the first epoch was saved"]
    second = Recorder()
    train(tiny, out, progress=second)
    assert ("going on after epoch 1 of 3" in second.messages) == (stop_after == 6)
    assert names(out) == FILES
    for name in SAME:
        assert (out / name).read_bytes() == (trained / name).read_bytes(), name


def test_a_crash_between_the_two_state_files_is_harmless(
    trained: Path, tiny: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny, out, progress=Recorder(6))
    ahead = json.loads((out / "state.json").read_text())
    ahead["log"].append(ahead["log"][0] | {"epoch": 2})
    (out / "state.json").write_text(json.dumps(ahead))
    train(tiny, out, progress=Silent())
    assert (out / "log.csv").read_bytes() == (trained / "log.csv").read_bytes()


def test_a_finished_run_is_not_trained_again(trained: Path, tiny: Recipe) -> None:
    before = (trained / "card.json").stat().st_mtime_ns
    card = train(tiny, trained, progress=Silent())
    assert card == json.loads((trained / "card.json").read_text())
    assert (trained / "card.json").stat().st_mtime_ns == before


def test_another_recipe_in_the_same_folder_is_refused(
    trained: Path, tiny: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(CgateError, match=r"another recipe: epochs 3 there, 2 now"):
        train(tiny, trained, epochs=2, progress=Silent())
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, progress=Recorder(6))
    with pytest.raises(CgateError, match=r"another recipe: seed 0 there, 1 now"):
        train(replace(tiny, seed=1), tmp_path, progress=Silent())


def test_foreign_folders_are_left_alone(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(CgateError, match="holds no training run"):
        train(tiny, tmp_path, progress=Silent())
    with pytest.raises(CgateError, match="is a file"):
        train(tiny, tmp_path / "thesis.tex", progress=Silent())
    assert names(tmp_path) == {"thesis.tex"}


def test_a_damaged_state_is_a_clear_error(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, progress=Recorder(6))
    data = (tmp_path / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CgateError, match="is damaged"):
        train(tiny, tmp_path, progress=Silent())


def test_divergence_is_reported_and_the_good_epoch_kept(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="training diverged") as caught:
        train(replace(tiny, lr=1e30), tmp_path, progress=Silent())
    assert caught.value.code == EXIT_CHECK_FAILED
    assert "peak lr" in caught.value.hint
    assert "model.safetensors" not in names(tmp_path)


def test_divergence_later_leaves_the_last_good_epoch(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, progress=Recorder(6))
    tensors = load_file(tmp_path / "last.safetensors")
    tensors["model.head.bias"][0] = np.inf
    save_file(tensors, tmp_path / "last.safetensors", {"epoch": "1"})
    kept = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(CgateError, match=r"of epoch 2; epoch 1 is kept"):
        train(tiny, tmp_path, progress=Silent())
    assert (tmp_path / "last.safetensors").read_bytes() == kept


def test_a_dense_network_trains_without_gates(tiny: Recipe, tmp_path: Path) -> None:
    card = train(tiny.dense(), tmp_path, epochs=1, progress=Silent())
    assert card["open_rates"] == {} and card["controls"] == {}
    assert card["executed_macs"] == card["dense_macs"]
    assert not any(".gate." in name for name in load_file(tmp_path / "model.safetensors"))
    load_checkpoint(tmp_path)


def test_bfloat16_with_gated_downsampling_trains(tiny: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny, dtype="bfloat16", gate_downsampling=True, flip=True)
    card = train(recipe, tmp_path, epochs=1, progress=Silent())
    assert list(card["open_rates"]) == ["s1b0", "s2b0", "s3b0"]
    load_checkpoint(tmp_path)


@pytest.mark.parametrize("model", ["resnet8-b", "mobilenetv2", "cosinegate8"])
def test_networks_that_cannot_be_exported_yet_train_and_load(
    tiny: Recipe, tmp_path: Path, model: str
) -> None:
    recipe = replace(tiny, model=model, width=0.125, limit=100)
    card = train(recipe, tmp_path, epochs=1, progress=Silent())
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.network.name == f"{model}-x0.125"
    assert list(card["open_rates"]) == [block.name for block in checkpoint.network.gated]
    for block in checkpoint.network.blocks:
        assert (f"{block.name}.shortcut" in checkpoint.ranges) == (block.shortcut == "projection")


def test_collapsed_gates_are_reported(tiny: Recipe, tmp_path: Path) -> None:
    heard = Recorder()
    train(replace(tiny, gate_bias=-50.0), tmp_path, epochs=2, progress=heard)
    assert sum("all gates are shut" in text for text in heard.messages) == 1


def test_a_limit_below_a_batch_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="batch of 50 is more than the 20"):
        train(tiny, tmp_path, limit=20, progress=Silent())


def test_the_learning_rate_rises_and_falls_linearly() -> None:
    done = np.linspace(0, 1, 101)
    rates = [one_cycle(value, 0.25) for value in done]
    np.testing.assert_allclose(rates, np.interp(done, [0, 0.25, 1], [0, 1, 0]), atol=1e-12)


def test_the_callers_random_numbers_and_threads_stay(tiny: Recipe, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny, tmp_path, epochs=1, progress=Silent())
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(
    tiny: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    heard = Recorder(1_000_000)
    with pytest.raises(CgateError, match="cannot write"):
        train(tiny, tmp_path / "file" / "run", progress=heard)
    assert heard.left == 1_000_000


def test_a_run_from_before_a_key_of_the_recipe_goes_on(tmp_path: Path) -> None:
    recipe = find_recipe("demo").to_json()
    older = {key: value for key, value in recipe.items() if key != "cost"}
    check_recipe(tmp_path, older, recipe)
    with pytest.raises(CgateError, match="cost 'macs' there, 'cortex-m4' now"):
        check_recipe(tmp_path, older, {**recipe, "cost": "cortex-m4"})

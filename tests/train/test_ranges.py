import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from torch import Tensor

from cgate.core.checkpoint import PATTERNS, load_checkpoint
from cgate.core.data import Dataset, Split
from cgate.core.errors import CgateError
from cgate.core.histogram import BINS, histogram_from_json, merge
from cgate.core.network import Gate
from cgate.train import ranges
from cgate.train.gates import all_open
from cgate.train.models import GatedResNet
from cgate.train.networks import Task, build_network
from cgate.train.ranges import TailValues, calibrate, histogram, load_model, measure_ranges

NETWORK = build_network(
    "resnet8", Task((8, 8, 1), 3, 128, 64), width=0.25, gate=Gate("controller", 2)
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 30_000), min_size=1, max_size=5),
    st.integers(0, 1000),
    st.integers(0, 40_000),
)
def test_tails_are_those_of_all_values_at_once(sizes: list[int], seed: int, spare: int) -> None:
    random = np.random.default_rng(seed)
    parts = [random.standard_normal(size).astype(np.float32) for size in sizes]
    tails = TailValues(sum(sizes) + spare)
    for part in parts:
        tails.add(torch.from_numpy(part))
    found = tails.range()
    values = np.concatenate(parts).astype(np.float64)
    assert found is not None
    assert found["low"] == values.min() and found["high"] == values.max()
    assert found["low_quantile"] == pytest.approx(np.quantile(values, 1e-4), rel=1e-12)
    assert found["high_quantile"] == pytest.approx(np.quantile(values, 1 - 1e-4), rel=1e-12)


def test_no_values_have_no_range() -> None:
    tails = TailValues(10)
    tails.add(torch.empty(0, 3))
    assert tails.range() is None


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.floats(1e-6, 1e6),
    st.booleans(),
)
def test_histograms_count_every_value_in_its_bin(
    sizes: list[int], seed: int, size: float, relu: bool
) -> None:
    random = np.random.default_rng(seed)
    parts = [(random.standard_normal(n) * size).astype(np.float32) for n in sizes]
    parts = [np.maximum(part, 0) if relu else part for part in parts]
    found = merge(histogram(torch.from_numpy(part)) for part in parts)
    values = np.concatenate(parts).astype(np.float64)
    assert found.zeros == int((values == 0).sum()) and len(found.counts) <= BINS
    ends = (found.first + np.arange(len(found.counts) + 1)) * found.width
    counts, _ = np.histogram(values[values != 0], np.append(ends, np.inf))
    assert counts[:-1].tolist() == found.counts.tolist()
    if len(np.unique(values)) > 2:
        assert found.width <= 8 * (values.max() - values.min()) / BINS


def test_a_tensor_of_zeros_or_of_one_value_has_a_histogram() -> None:
    assert histogram(torch.zeros(5)).total == 5
    one = histogram(torch.full((7,), -2.5))
    assert one.total == 7 and abs(one.centres[one.counts.argmax()] + 2.5) < 1e-4


def dataset(count: int = 30) -> Dataset:
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 256, (count, 8, 8, 1), np.uint8), np.zeros(count, np.int64))
    return Dataset("noise", split, split, split, ("a", "b", "c"), "0" * 32, 128, 64)


def test_ranges_are_the_extremes_of_the_tensors() -> None:
    torch.manual_seed(0)
    model = GatedResNet(NETWORK).eval()
    found = measure_ranges(model, dataset(), seed=3)
    assert (found["data"], found["images"], found["seed"]) == ("noise", 30, 3)
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        model(
            torch.from_numpy(dataset().train.images),
            all_open,
            lambda name, values, ran: seen.update({name: values}),
        )
    assert found["tensors"].keys() == found["histograms"].keys() == seen.keys()
    for name, values in seen.items():
        opened = found["tensors"][name]["open"]
        assert opened["low"] == pytest.approx(values.min().item(), rel=1e-5, abs=1e-6)
        assert opened["high"] == pytest.approx(values.max().item(), rel=1e-5, abs=1e-6)
        assert opened["low"] <= opened["low_quantile"] <= opened["high_quantile"]
        # Of all three patterns; bodies count in two or three of them, by the gates' decisions.
        total = histogram_from_json(found["histograms"][name], name).total
        assert values.numel() < total <= 3 * values.numel()


def test_bodies_count_only_where_they_run() -> None:
    torch.manual_seed(0)
    model = GatedResNet(NETWORK).eval()
    images = torch.from_numpy(dataset().train.images)
    for bias, patterns in ((-50.0, {"open", "random"}), (50.0, set(PATTERNS))):
        torch.nn.init.constant_(model.get_parameter("blocks.s1b0.gate.fc2.bias"), bias)
        found = measure_ranges(model, dataset(), seed=0)["tensors"]
        assert found["s1b0.conv2"].keys() == patterns
        assert found["s1b0.gate.logit"].keys() == set(PATTERNS)
        assert found["s2b0.conv2"].keys() == set(PATTERNS)  # it has no gate
    assert len(images) == 30


def test_large_splits_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "IMAGES", 10)
    model = GatedResNet(NETWORK).train()
    first, second, other = (measure_ranges(model, dataset(), seed) for seed in (1, 1, 2))
    assert first["images"] == 10 and model.training
    assert first == second and first["tensors"] != other["tensors"]


def test_calibrate_writes_what_training_wrote(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(trained, folder)
    expected = (folder / "ranges.json").read_bytes()
    (folder / "ranges.json").unlink()
    calibrate(folder)
    assert (folder / "ranges.json").read_bytes() == expected
    load_checkpoint(folder)


def test_calibrate_refuses_other_data(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(trained, folder)
    card = json.loads((folder / "card.json").read_text())
    card["data"]["md5"] = "0" * 32
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(CgateError, match="was trained on digits with md5 0000"):
        calibrate(folder)


def test_weights_of_another_network_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(trained, folder)
    card = json.loads((folder / "card.json").read_text())
    other = replace(NETWORK, name="other").to_json()
    (folder / "card.json").write_text(json.dumps(card | {"network": other}))
    with pytest.raises(CgateError, match="does not match the network"):
        load_model(folder)


def test_a_damaged_checkpoint_is_a_clear_error(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="card is missing"):
        calibrate(tmp_path)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(CgateError, match=r"cannot read .*model\.safetensors"):
        calibrate(tmp_path)

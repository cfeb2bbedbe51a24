"""Activation ranges: what export needs to choose scales, taken on training images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from cgate.core.checkpoint import (
    CARD,
    PATTERNS,
    RANGES,
    SCHEMA,
    WEIGHTS,
    read_card,
    weight_shapes,
)
from cgate.core.data import Dataset, load_dataset
from cgate.core.errors import CgateError
from cgate.core.files import write_json
from cgate.core.histogram import BINS, MAX_EXPONENT, Histogram, merge
from cgate.core.network import network_from_json
from cgate.core.progress import Progress, Silent
from cgate.train.gates import GatePolicy, all_open, at_random, learned
from cgate.train.models import GatedResNet

IMAGES = 1000
TAIL = 1e-4
"""The quantiles recorded are TAIL and 1 - TAIL."""

_BATCH = 50


class TailValues:
    """Extremes and exact outer quantiles of a stream of values, in little memory.

    Args:
        most: upper bound of the number of values to come.
    """

    def __init__(self, most: int) -> None:
        # A linear quantile reads the two sorted values around its position.
        self._keep = int(TAIL * most) + 2
        self._low = torch.empty(0)
        self._high = torch.empty(0)
        self._count = 0

    def add(self, values: Tensor) -> None:
        """Take in float32 values of any shape."""
        values = values.flatten()
        self._count += len(values)
        self._low = -self._largest(-self._low, -values)
        self._high = self._largest(self._high, values)

    def _largest(self, kept: Tensor, values: Tensor) -> Tensor:
        if len(kept) == self._keep:
            # Few values beat the least of those kept, so sorting gets cheap after one batch.
            values = values[values > kept[-1]]
        merged = torch.cat([kept, values])
        return merged.topk(min(self._keep, len(merged))).values

    def _at(self, ordered: Tensor) -> float:
        position = TAIL * (self._count - 1)
        below = math.floor(position)
        first = float(ordered[below])
        second = float(ordered[min(below + 1, len(ordered) - 1)])
        return first + (second - first) * (position - below)

    def range(self) -> dict[str, float] | None:
        """The fields of a range in ranges.json, or None if no value came."""
        if self._count == 0:
            return None
        return {
            "low": float(self._low[0]),
            "high": float(self._high[0]),
            "low_quantile": self._at(self._low),
            "high_quantile": self._at(self._high),
        }


def histogram(values: Tensor) -> Histogram:
    """The histogram of finite float32 values of any shape."""
    nonzero = values[values != 0]
    zeros = values.numel() - len(nonzero)
    if len(nonzero) == 0:
        return Histogram(-MAX_EXPONENT, 0, np.zeros(0, np.int64), zeros)
    low, high = (float(end) for end in torch.aminmax(nonzero))
    # Half the bins: an end that lies inside a bin costs one more.
    width = max((high - low) / (BINS // 2), max(abs(low), abs(high)) * 2.0**-20)
    exponent = max(math.ceil(math.log2(width)), -MAX_EXPONENT)
    # A division by a power of two: exact, so that every machine counts alike.
    places = torch.floor(nonzero * 2.0**-exponent).to(torch.int64)
    first = int(places.min())
    counts = torch.bincount(places - first).numpy()
    return Histogram(exponent, first, counts, zeros)


def _watch(
    model: GatedResNet, images: Tensor, policy: GatePolicy
) -> tuple[dict[str, dict[str, float]], dict[str, Histogram]]:
    """Ranges and histograms of all tensors of `model` over `images` under one gate policy."""
    tails: dict[str, TailValues] = {}
    histograms: dict[str, Histogram] = {}

    def observe(name: str, values: Tensor, ran: Tensor | None) -> None:
        if name not in tails:
            tails[name] = TailValues(len(images) * values[0].numel())
        # A body that does not run on the device must not widen the scale there.
        values = values if ran is None else values[ran > 0]
        if values.numel():
            tails[name].add(values)
            parts = [histograms[name]] if name in histograms else []
            histograms[name] = merge([*parts, histogram(values)])

    with torch.inference_mode():
        for batch in torch.split(images, _BATCH):
            model(batch, policy, observe)
    ranges = {name: tail.range() for name, tail in tails.items()}
    return {name: values for name, values in ranges.items() if values is not None}, histograms


def measure_ranges(model: GatedResNet, dataset: Dataset, seed: int) -> dict[str, Any]:
    """The content of ranges.json for `model`.

    Args:
        dataset: up to IMAGES of its training images are drawn, not augmented.
        seed: of the draw and of the random gate pattern.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(dataset.train), generator=generator)[:IMAGES].sort().values
    images = torch.from_numpy(dataset.train.images[drawn.numpy()])
    return {"data": dataset.name, "seed": seed, **ranges_over(model, images, generator)}


def ranges_over(model: GatedResNet, images: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """What ranges.json says of `model` on `images`.

    Args:
        model: moved to the CPU for this and put back in its place and mode.
        images: uint8 [N, H, W, C].
        generator: of the random gate pattern.
    """
    device = next(model.parameters()).device
    training = model.training
    model.cpu().eval()
    patterns = (all_open, learned, at_random(generator))
    # A static gate decides alike for all images, on the device too: its body runs or is left out.
    static = {b.name for b in model.network.gated if b.gate is not None and b.gate.kind == "static"}

    def settled(policy: GatePolicy) -> GatePolicy:
        return lambda block, logits: (learned if block in static else policy)(block, logits)

    policies = {name: settled(each) for name, each in zip(PATTERNS, patterns, strict=True)}
    tensors: dict[str, dict[str, dict[str, float]]] = {}
    histograms: dict[str, list[Histogram]] = {}
    for pattern, policy in policies.items():
        found, counted = _watch(model, images, policy)
        for name, values in found.items():
            tensors.setdefault(name, {})[pattern] = values
            histograms.setdefault(name, []).append(counted[name])
    model.to(device).train(training)
    return {
        "schema": SCHEMA,
        "images": len(images),
        "tensors": tensors,
        "histograms": {name: merge(parts).to_json() for name, parts in histograms.items()},
    }


def load_model(folder: Path) -> tuple[GatedResNet, dict[str, Any]]:
    """The trained model and the card of a checkpoint folder, which may lack ranges.json.

    Raises:
        CgateError: a file is missing, damaged or does not match the network.
    """
    card = read_card(folder)
    model = GatedResNet(network_from_json(card.get("network"), f"{folder / CARD}: network"))
    path = folder / WEIGHTS
    try:
        weights = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CgateError(f"cannot read {path}: {error}", "train the checkpoint again") from error
    expected = weight_shapes(model.network)
    if {name: tuple(value.shape) for name, value in weights.items()} != expected:
        raise CgateError(
            f"{path} does not match the network in {CARD}", "copy the checkpoint again"
        )
    model.load_state_dict(weights)
    return model.eval(), card


def load_training_data(folder: Path, card: dict[str, Any], data_dir: Path | None) -> Dataset:
    """The data set that the checkpoint in `folder`, with this card, was trained on.

    Raises:
        CgateError: the card names none, it cannot be read, or it is another one.
    """
    data = card.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise CgateError(
            f"{folder / CARD} names no data set", "this needs a checkpoint that `cgate train` wrote"
        )
    dataset = load_dataset(data["name"], data_dir)
    if data.get("md5") != dataset.md5:
        raise CgateError(
            f"{folder} was trained on {dataset.name} with md5 {data.get('md5')}, "
            f"the data found has {dataset.md5}",
            "give --data-dir of the data that the checkpoint was trained on",
        )
    return dataset


def calibrate(
    folder: Path, data_dir: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure the ranges of a checkpoint again and rewrite its ranges.json.

    Args:
        folder: a checkpoint that `train` finished.
        data_dir: where its data set lies, see `cgate.core.data.find_data`.

    Returns:
        The content of ranges.json.

    Raises:
        CgateError: the checkpoint or the data cannot be read, the data is not what the
            checkpoint was trained on, or the ranges are part of its training (`cgate qat`).
    """
    model, card = load_model(folder)
    if "qat" in card:
        raise CgateError(
            f"{folder} was fine-tuned at its present ranges: others would undo that",
            f"calibrate the checkpoint that it comes from, then `cgate qat` with --out {folder}",
        )
    dataset = load_training_data(folder, card, data_dir)
    (progress or Silent()).message(f"measuring ranges on {dataset.name}")
    seed = card.get("seed")
    ranges = measure_ranges(model, dataset, seed if isinstance(seed, int) else 0)
    write_json(folder / RANGES, ranges)
    return ranges

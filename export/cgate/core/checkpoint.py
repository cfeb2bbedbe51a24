"""Reading a checkpoint folder: network, weights, activation ranges. Needs no torch.

`cgate.train` writes these folders; SPEC.md, "Checkpoint", gives the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from cgate.core.errors import CgateError, hinted
from cgate.core.files import read_json, sha256
from cgate.core.histogram import Histogram, histogram_from_json
from cgate.core.network import Block, Conv, Network, network_from_json

CARD = "card.json"
WEIGHTS = "model.safetensors"
RANGES = "ranges.json"
SCHEMA = 1
MAX_VALUE = 1e30  # of an activation; what is above, or NaN, comes from a damaged file
PATTERNS = ("open", "learned", "random")
"""Gate patterns under which ranges are taken: all gates open, as learned, at random."""


@dataclass(frozen=True)
class Range:
    """Observed values of one tensor: extremes and the 0.01 % and 99.99 % quantiles."""

    low: float
    high: float
    low_quantile: float
    high_quantile: float


Ranges = Mapping[str, Mapping[str, Range]]
"""Tensor name -> gate pattern -> range. A tensor never computed under a pattern has no entry."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    Args:
        card: card.json as parsed (recipe, data, accuracies, open rates).
        weights: float32 arrays by torch name.
        histograms: of each tensor's values over all gate patterns; empty in a checkpoint whose
            ranges were taken before they were kept.
        source_sha256: hash over the three files that export reads.
    """

    folder: Path
    card: Mapping[str, Any]
    network: Network
    weights: Mapping[str, NDArray[np.float32]]
    ranges: Ranges
    histograms: Mapping[str, Histogram]
    source_sha256: str


def _gate_shapes(block: Block) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a block's gate, by name below the gate's own."""
    gate = block.gate
    assert gate is not None
    channels, hidden = block.body[0].in_channels, gate.hidden
    controller: dict[str, tuple[int, ...]] = {
        "fc1.weight": (hidden, channels),
        "fc1.bias": (hidden,),
        "fc2.weight": (1, hidden),
        "fc2.bias": (1,),
    }
    predictor: dict[str, tuple[int, ...]] = {
        "norm.running_mean": (2 * channels,),
        "norm.running_var": (2 * channels,),
        "predict1.weight": (hidden, 2 * channels),
        "predict1.bias": (hidden,),
        "predict2.weight": (1, hidden),
        "predict2.bias": (1,),
    }
    if gate.kind == "controller":
        return controller
    if gate.kind == "cir":
        return {"log_gamma": (1,)} | controller
    if gate.kind == "cir-predicted":
        return {"log_gamma": (1,)} | controller | predictor
    if gate.kind == "anchor":
        return {"log_temperature": (1,), "anchors": (2, channels)}
    if gate.kind == "probe":
        own = {f"bn{i}": conv.out_channels for i, conv in enumerate(block.body, 1)}
        if block.projection is not None:
            own["projection"] = block.projection.out_channels
        own["cir"] = 1
        shapes: dict[str, tuple[int, ...]] = {"log_gamma": (1,), "bias": (1,)}
        for layer, count in own.items():
            shapes |= {f"{layer}.{what}": (count,) for what in ("running_mean", "running_var")}
        return shapes
    return {"bias": (1,)} if gate.kind == "static" else {}


def weight_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the float32 arrays that a checkpoint of `network` holds.

    Convolutions are OIHW with I per group, linear layers (out, in), as in torch.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(prefix: str, norm: str, conv: Conv) -> None:
        shapes[f"{prefix}.weight"] = (
            conv.out_channels,
            conv.in_channels // conv.groups,
            conv.kernel,
            conv.kernel,
        )
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (conv.out_channels,)

    def linear(prefix: str, inputs: int, outputs: int) -> None:
        shapes[f"{prefix}.weight"] = (outputs, inputs)
        shapes[f"{prefix}.bias"] = (outputs,)

    convolution("stem.conv", "stem.bn", network.stem)
    for block in network.blocks:
        for i, conv in enumerate(block.body, 1):
            prefix = f"blocks.{block.name}"
            convolution(f"{prefix}.conv{i}", f"{prefix}.bn{i}", conv)
        if block.projection is not None:
            prefix = f"blocks.{block.name}.projection"
            convolution(f"{prefix}.conv", f"{prefix}.bn", block.projection)
        if block.gate is not None:
            for name, shape in _gate_shapes(block).items():
                shapes[f"blocks.{block.name}.gate.{name}"] = shape
    for each in network.exits:
        linear(f"exits.{each.block}", network.channels_after(each.block), network.classes)
    linear("head", network.features, network.classes)
    return shapes


def _ranges(value: Any, where: str) -> dict[str, dict[str, Range]]:
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CgateError(f"{where}: schema is not {SCHEMA}", "run `cgate calibrate` again")
    tensors = value.get("tensors")
    if not isinstance(tensors, dict):
        raise CgateError(f"{where}: 'tensors' is missing")
    ranges: dict[str, dict[str, Range]] = {}
    for name, patterns in tensors.items():
        ranges[name] = {}
        for pattern, fields in patterns.items() if isinstance(patterns, dict) else ():
            keys = ("low", "high", "low_quantile", "high_quantile")
            numbers = [
                float(n)
                for n in (fields.get(key) if isinstance(fields, dict) else None for key in keys)
                if isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < MAX_VALUE
            ]
            if pattern not in PATTERNS or len(numbers) != len(keys) or numbers[0] > numbers[1]:
                raise CgateError(f"{where}: {name}.{pattern} is no range")
            ranges[name][pattern] = Range(*numbers)
        if not ranges[name]:
            raise CgateError(f"{where}: {name} has no range")
    return ranges


def _histograms(value: Any, where: str) -> dict[str, Histogram]:
    if not isinstance(value, dict):
        raise CgateError(f"{where}: 'histograms' is no object", "run `cgate calibrate` again")
    return {
        name: histogram_from_json(each, f"{where}: histograms.{name}")
        for name, each in value.items()
    }


IS = "a checkpoint is the folder that `cgate train --out FOLDER` writes"


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a checkpoint; its network and data are not looked at.

    Raises:
        CgateError: `folder` is no checkpoint; the message says what it is, if that is known.
    """
    if not folder.is_dir():
        raise CgateError(f"there is no checkpoint folder {folder}", IS)
    hint = IS
    if (folder / "plan.json").is_file():
        hint = "this is a bundle, made from a checkpoint; " + IS
    elif (folder / "state.json").is_file():
        hint = "training has not ended here; the same `cgate train` command goes on"
    card = read_json(folder / CARD, "the checkpoint's card", hint)
    if not isinstance(card, dict) or card.get("schema") != SCHEMA or "network" not in card:
        raise CgateError(
            f"{folder / CARD} is no cgate checkpoint card (schema {SCHEMA} with a network)", IS
        )
    return card


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a checkpoint folder.

    Raises:
        CgateError: a file is missing, truncated, foreign or does not match the network.
    """
    with hinted("copy the checkpoint again, or train it again"):
        return _load_checkpoint(folder)


def _load_checkpoint(folder: Path) -> Checkpoint:
    card = read_card(folder)
    network = network_from_json(card["network"], f"{folder / CARD}: network")
    data = card.get("data", {})
    names = data.get("classes", []) if isinstance(data, dict) else None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise CgateError(f"{folder / CARD}: 'data' has no list of class names")
    path = folder / WEIGHTS
    try:
        weights = load(path.read_bytes())
    except FileNotFoundError as error:
        raise CgateError(
            f"the checkpoint has no weights: {path} does not exist",
            "training has not finished an epoch; run `cgate train` on this folder again",
        ) from error
    except OSError as error:
        raise CgateError(f"cannot read {path}: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise CgateError(
            f"{path} is truncated or no safetensors file: {error}",
            "copy the checkpoint again, or train it again",
        ) from error
    shapes = weight_shapes(network)
    for name, shape in shapes.items():
        if name not in weights:
            raise CgateError(f"{path}: the network needs {name}, which is missing")
        if weights[name].shape != shape or weights[name].dtype != np.float32:
            raise CgateError(
                f"{path}: {name} is {weights[name].dtype}{list(weights[name].shape)}, "
                f"the network needs float32{list(shape)}"
            )
        if not np.isfinite(weights[name]).all():
            raise CgateError(f"{path}: {name} holds NaN or infinity", "the training diverged")
        if name.endswith(".running_var") and (weights[name] < 0).any():
            raise CgateError(f"{path}: {name} holds a negative variance", "train it again")
    foreign = sorted(weights.keys() - shapes.keys())
    if foreign:
        raise CgateError(f"{path}: {foreign[0]} belongs to no layer of {network.name}")
    stored = read_json(
        folder / RANGES, "the file of activation ranges", f"cgate calibrate {folder}"
    )
    with hinted(f"cgate calibrate {folder}"):
        ranges = _ranges(stored, str(folder / RANGES))
        histograms = _histograms(stored.get("histograms", {}), str(folder / RANGES))
    files = b"".join(
        sha256((folder / name).read_bytes()).encode() for name in (CARD, WEIGHTS, RANGES)
    )
    return Checkpoint(folder, card, network, weights, ranges, histograms, sha256(files))

"""Batch norm folded into the convolutions before it: the float network that is quantised."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgate.core.checkpoint import Checkpoint
from cgate.core.gates import CIR_SPREAD, CIR_USUAL, NORM_EPSILON

BATCH_NORM_EPSILON = 1e-5  # torch's default; SPEC.md, section 3


@dataclass(frozen=True)
class Inputs:
    """What training saw of a layer's inputs: float64 mean and variance of each channel (in)."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


@dataclass(frozen=True)
class FloatConv:
    """A convolution's float64 parameters: weights (out, kh, kw, in / groups), bias (out).

    Args:
        inputs: where they are known, so that quantisation can tell what a weight is worth.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    inputs: Inputs | None = None


def _folded(checkpoint: Checkpoint, conv: str, norm: str) -> FloatConv:
    def array(name: str) -> NDArray[np.float64]:
        return checkpoint.weights[name].astype(np.float64)

    gain = array(f"{norm}.weight") / np.sqrt(array(f"{norm}.running_var") + BATCH_NORM_EPSILON)
    kernel = array(f"{conv}.weight") * gain[:, None, None, None]
    bias = array(f"{norm}.bias") - array(f"{norm}.running_mean") * gain
    return FloatConv(kernel.transpose(0, 2, 3, 1), bias)


def _linear(checkpoint: Checkpoint, name: str) -> FloatConv:
    weights = checkpoint.weights[f"{name}.weight"].astype(np.float64)
    return FloatConv(
        weights[:, None, None, :], checkpoint.weights[f"{name}.bias"].astype(np.float64)
    )


def _gate(checkpoint: Checkpoint, kind: str, name: str) -> dict[str, FloatConv]:
    """The layers of an exported gate; no layer of a kind that has none."""
    if kind == "controller":
        return {layer: _linear(checkpoint, f"{name}.{layer}") for layer in ("fc1", "fc2")}
    if kind == "anchor":
        anchors = checkpoint.weights[f"{name}.anchors"].astype(np.float64)
        opened, shut = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
        # Positive where the mean is nearer to the open anchor; its length does not matter.
        return {"side": FloatConv((opened - shut)[None, None, None, :], np.zeros(1))}
    if kind != "cir-predicted":
        return {}
    # Predictor and controller side by side, gamma in the second layer.
    predict1, predict2, own1, own2 = (
        _linear(checkpoint, f"{name}.{layer}") for layer in ("predict1", "predict2", "fc1", "fc2")
    )
    # The predictor's input is standardised, and its output is a deviation from the usual CIR.
    variance = checkpoint.weights[f"{name}.norm.running_var"].astype(np.float64)
    middle = checkpoint.weights[f"{name}.norm.running_mean"].astype(np.float64)
    standard = predict1.weights / np.sqrt(variance + NORM_EPSILON)
    offset = predict1.bias - standard[:, 0, 0, :] @ middle
    unseen = np.zeros_like(own1.weights)  # the controller does not look at the maximum
    gamma = math.exp(float(checkpoint.weights[f"{name}.log_gamma"][0]))
    return {
        "fc1": FloatConv(
            np.concatenate([standard, np.concatenate([own1.weights, unseen], axis=3)]),
            np.concatenate([offset, own1.bias]),
            Inputs(middle, variance),
        ),
        "fc2": FloatConv(
            gamma * np.concatenate([CIR_SPREAD * predict2.weights, own2.weights], axis=3),
            gamma * (CIR_USUAL + CIR_SPREAD * predict2.bias + own2.bias),
        ),
    }


def fold(checkpoint: Checkpoint) -> dict[str, FloatConv]:
    """All layers of a checkpoint as plain convolutions.

    Returns:
        By layer name: "stem", "<block>.conv<i>", "<block>.shortcut" (a projection),
        "<block>.gate.fc1", "<block>.gate.fc2" (of "anchor" gates: "<block>.gate.side"),
        "<block>.exit", "head".
        Linear layers are 1x1 convolutions.
    """
    network = checkpoint.network
    layers = {"stem": _folded(checkpoint, "stem.conv", "stem.bn")}
    for block in network.blocks:
        prefix = f"blocks.{block.name}"
        for i in range(1, len(block.body) + 1):
            layers[f"{block.name}.conv{i}"] = _folded(
                checkpoint, f"{prefix}.conv{i}", f"{prefix}.bn{i}"
            )
        if block.projection is not None:
            projection = f"{prefix}.projection"
            layers[f"{block.name}.shortcut"] = _folded(
                checkpoint, f"{projection}.conv", f"{projection}.bn"
            )
        if block.gate is not None:
            for name, layer in _gate(checkpoint, block.gate.kind, f"{prefix}.gate").items():
                layers[f"{block.name}.gate.{name}"] = layer
    for each in network.exits:
        layers[f"{each.block}.exit"] = _linear(checkpoint, f"exits.{each.block}")
    layers["head"] = _linear(checkpoint, "head")
    return layers

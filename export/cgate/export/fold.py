"""Batch norm folded into the convolutions before it: the float network that is quantised."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgate.core.checkpoint import Checkpoint

BATCH_NORM_EPSILON = 1e-5  # torch's default; SPEC.md, section 3


@dataclass(frozen=True)
class FloatConv:
    """A convolution's float64 parameters: weights (out, kh, kw, in), bias (out)."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]


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


def fold(checkpoint: Checkpoint) -> dict[str, FloatConv]:
    """All layers of a checkpoint as plain convolutions.

    Returns:
        By layer name: "stem", "<block>.conv<i>", "<block>.gate.fc1", "<block>.gate.fc2", "head".
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
        if block.gate is not None:
            for name in ("fc1", "fc2"):
                layers[f"{block.name}.gate.{name}"] = _linear(checkpoint, f"{prefix}.gate.{name}")
    layers["head"] = _linear(checkpoint, "head")
    return layers

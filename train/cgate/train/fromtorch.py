"""A plain torch module -> a checkpoint without gates, for export. No code per architecture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from cgate.core.checkpoint import CARD, RANGES, SCHEMA, WEIGHTS
from cgate.core.errors import CgateError
from cgate.core.files import json_text, replaced_folder, write_bytes, write_json
from cgate.core.network import Block, Network, network_from_json, network_macs
from cgate.core.version import __version__
from cgate.train.models import EPSILON, GatedResNet
from cgate.train.ranges import ranges_over
from cgate.train.traced import Layer, Step, Traced, trace

TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the largest logit, that float32 may explain."""

_BATCH = 50


def _block(name: str, step: Step) -> Block:
    body = [layer.shape for layer in step.body]
    # The activation of a plain unit's layer is its block's.
    body[-1] = replace(body[-1], relu=False, relu6=False)
    return Block(name, tuple(body), step.shortcut, None, step.relu, step.relu6, step.pool)


def _layer(layer: Layer, conv: str, norm: str) -> dict[str, Tensor]:
    """The checkpoint's arrays of a convolution, which has a norm of epsilon 1e-5 and no bias."""
    outputs = layer.conv.out_channels
    zeros, ones = torch.zeros(outputs), torch.ones(outputs)
    bias = zeros if layer.conv.bias is None else layer.conv.bias
    gain, offset, mean, variance = (1 + EPSILON) ** 0.5 * ones, bias, zeros, ones
    if layer.norm is not None:
        if layer.norm.running_mean is None or layer.norm.running_var is None:
            raise CgateError(
                f"{layer.path}: the batch norm behind it keeps no running statistics",
                "train it with track_running_stats=True",
            )
        gain = ones if layer.norm.weight is None else layer.norm.weight
        offset = zeros if layer.norm.bias is None else layer.norm.bias
        mean, variance = layer.norm.running_mean - bias, layer.norm.running_var
        if layer.norm.eps != EPSILON:
            gain = gain * torch.sqrt((1 + EPSILON) / (variance + layer.norm.eps))
            variance = ones
    return {
        f"{conv}.weight": layer.conv.weight,
        f"{norm}.weight": gain,
        f"{norm}.bias": offset,
        f"{norm}.running_mean": mean,
        f"{norm}.running_var": variance,
    }


def _weights(network: Network, traced: Traced) -> dict[str, Tensor]:
    weights = _layer(traced.steps[0].body[0], "stem.conv", "stem.bn")
    for block, step in zip(network.blocks, traced.steps[1:], strict=True):
        prefix = f"blocks.{block.name}"
        for i, layer in enumerate(step.body, 1):
            weights |= _layer(layer, f"{prefix}.conv{i}", f"{prefix}.bn{i}")
        if step.projection is not None:
            projection = f"{prefix}.projection"
            weights |= _layer(step.projection, f"{projection}.conv", f"{projection}.bn")
    head = traced.head
    weights["head.weight"] = head.weight
    weights["head.bias"] = torch.zeros(head.out_features) if head.bias is None else head.bias
    return {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}


def _check_equal(module: nn.Module, model: GatedResNet, images: Tensor) -> None:
    network = model.network
    with torch.inference_mode():
        for batch in torch.split(images, _BATCH):
            x = (batch.permute(0, 3, 1, 2).float() - network.input_zero) / network.input_divisor
            expected, found = module(x), model(batch).logits
            worst = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-6))
            if not worst <= TOLERANCE:
                raise CgateError(
                    f"the module and what was read of it differ by {worst:.2g} of a logit",
                    "does its forward do the same every time, and in float32?",
                )


def convert(
    module: nn.Module,
    images: NDArray[np.uint8],
    out: Path | str,
    *,
    name: str = "network",
    input_zero: int = 0,
    input_divisor: int = 255,
    classes: Sequence[str] = (),
) -> Network:
    """Write a torch module as a checkpoint, which `cgate export` takes.

    The module is left as it is. Its logits and those of what was read are compared on `images`.

    Args:
        module: its forward takes float32 [N, C, H, W] and gives logits [N, classes]. It sees
            (pixel - input_zero) / input_divisor, the same for all channels.
        images: uint8 [N, H, W, C], typical ones: activation ranges are taken on them.
        out: the checkpoint's folder; an older checkpoint there is replaced.
        name: of the network: letters, digits, '.', '_', '-'.
        classes: their names, one per logit; none for numbers.

    Raises:
        CgateError: the module does something that cannot be exported; the message names the
            module's path and the op, the hint what is supported.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise CgateError(
            f"images are {images.dtype}{list(images.shape)}, not uint8 [N, H, W, C] with N > 0"
        )
    training = module.training
    module.eval()
    try:
        pixels = torch.from_numpy(images)
        shown = (pixels[:2].permute(0, 3, 1, 2).float() - input_zero) / input_divisor
        traced = trace(module, shown)
        if not traced.steps or not traced.steps[0].relu or traced.steps[0].shortcut != "none":
            raise CgateError(
                "the module does not begin with a convolution and a ReLU",
                "supported is Conv2d, BatchNorm2d, ReLU or ReLU6, then blocks",
            )
        stem = traced.steps[0]
        description = Network(
            name,
            (images.shape[1], images.shape[2], images.shape[3]),
            input_zero,
            input_divisor,
            traced.head.out_features,
            stem.body[0].shape,
            tuple(_block(f"b{i}", step) for i, step in enumerate(traced.steps[1:], 1)),
            stem_pool=stem.pool,
        )
        network = network_from_json(json.loads(json_text(description.to_json())), name)
        model = GatedResNet(network)
        model.load_state_dict(_weights(network, traced))
        model.eval()
        _check_equal(module, model, pixels)
    finally:
        module.train(training)
    if classes and len(classes) != network.classes:
        raise CgateError(f"{len(classes)} class names for {network.classes} logits")
    write_model(Path(out), model, pixels, classes)
    return network


def write_model(out: Path, model: GatedResNet, pixels: Tensor, classes: Sequence[str] = ()) -> None:
    """Write a model that was not trained here as a checkpoint: its card has no recipe.

    Args:
        model: in evaluation mode.
        pixels: uint8 [N, H, W, C]: activation ranges are taken on them.
        classes: names, one per logit, or none.
    """
    with replaced_folder(out, CARD) as made:
        write_bytes(made / WEIGHTS, save(model.state_dict()))
        ranges = ranges_over(model, pixels, torch.Generator().manual_seed(0))
        write_json(made / RANGES, ranges)
        card = {
            "schema": SCHEMA,
            "network": model.network.to_json(),
            "data": {"classes": list(classes)},
            "dense_macs": network_macs(model.network).dense,
            "cgate": __version__,
        }
        write_json(made / CARD, card)

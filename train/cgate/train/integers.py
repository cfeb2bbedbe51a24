"""The deployed network inside training: a forward pass whose values are the plan's integers.

The model's arrays are lowered as `cgate export` would lower them, and the plan is run by the
reference that defines it. So there is no second arithmetic that could differ: folded batch norm,
weights per channel, scales, roundings, saturation and decisions are those of the firmware. The
backward pass is the float network's at these values (straight-through); what saturates passes no
gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cgate.core.checkpoint import Checkpoint
from cgate.core.plan import Conv2d, Plan, Unit, Weights
from cgate.core.targets import roomiest
from cgate.export import reference
from cgate.export.lower import lower
from cgate.export.reference import Int8
from cgate.train.gates import GatePolicy, learned
from cgate.train.models import GatedResNet, Observer, Output

FLOAT_EXACT = 1 << 24
"""float32 holds all whole numbers up to this size, so sums that stay below are exact in it."""


def sums(x: Int8, op: Conv2d, kernel: Int8, zero_point: int) -> NDArray[np.float64]:
    """`reference.accumulate` by torch's convolution, several times as fast."""
    largest = 255 * int(np.abs(kernel.astype(np.int64)).sum(axis=(1, 2, 3)).max())
    dtype = torch.float32 if largest < FLOAT_EXACT else torch.float64
    top, left, bottom, right = op.padding
    values = torch.from_numpy(x).permute(0, 3, 1, 2).to(dtype) - zero_point
    values = functional.pad(values, (left, right, top, bottom))
    weights = torch.from_numpy(np.ascontiguousarray(kernel)).permute(0, 3, 1, 2).to(dtype)
    with torch.no_grad():
        total = functional.conv2d(values, weights, stride=op.stride)
    found: NDArray[np.float64] = total.permute(0, 2, 3, 1).to(torch.float64).numpy()
    return found


@dataclass(frozen=True)
class Deployed:
    """What the deployed network does with a batch of n images.

    Args:
        tensors: by name, the images that compute it and its integers, int8 [m, H, W, C].
        decisions: 1 where the gate is open, else 0, float32 [n] by block name; of static gates
            and of exits there are none.
    """

    plan: Plan
    tensors: dict[str, tuple[NDArray[np.int64], Int8]]
    decisions: dict[str, Tensor]


def deploy(checkpoint: Checkpoint, model: GatedResNet, ranges: str) -> tuple[Plan, Weights]:
    """The plan of `model` as it is now; no exit is left, so that all are computed.

    Args:
        checkpoint: where card and ranges come from; its weights are not looked at.
        ranges: one of `quantize.RANGE_CHOICES`.

    Raises:
        CgateError: the model cannot be lowered.
    """
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    exits = tuple(replace(each, margin=None) for each in model.network.exits)
    current = replace(checkpoint, weights=arrays, network=replace(model.network, exits=exits))
    return lower(current, roomiest(), ranges=ranges, kernels="ref")


def run(plan: Plan, weights: Weights, pixels: Tensor) -> Deployed:
    """Run uint8 images [n, H, W, C] through the plan."""
    tensors: dict[str, tuple[NDArray[np.int64], Int8]] = {}
    decisions: dict[str, Tensor] = {}
    made: dict[str, Int8] = {}

    def compute(unit: Unit, inputs: Mapping[str, Int8]) -> tuple[Int8, NDArray[np.bool_] | None]:
        made.clear()
        made.update(reference.run_unit(plan, weights, unit, inputs, sums))
        output = made[unit.output]
        return output, reference.decide(unit, output) if unit in plan.gates else None

    images = reference.to_input(pixels.numpy())
    for step in reference.walk(plan, images, "learned", compute):
        for name, values in made.items():
            tensors[name] = (step.images, values)
        if step.unit.role == "gate" and step.decision is not None:
            assert step.unit.block is not None
            decisions[step.unit.block] = torch.from_numpy(step.decision).to(torch.float32)
    return Deployed(plan, tensors, decisions)


class _StraightThrough(torch.autograd.Function):
    """See `straight_through`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, exact: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((values >= low) & (values <= high))
        return exact

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def straight_through(values: Tensor, exact: Tensor, low: float, high: float) -> Tensor:
    """`exact`, with the gradient of `values` where these lie within low .. high."""
    out: Tensor = _StraightThrough.apply(values, exact, low, high)  # type: ignore[no-untyped-call]
    return out


def _replaced(values: Tensor, name: str, deployed: Deployed) -> Tensor:
    """`values` with the deployed network's in their place, for the images that compute them."""
    if name not in deployed.tensors:
        return values
    tensor = deployed.plan.tensor(name)
    rows, integers = deployed.tensors[name]
    steps = torch.from_numpy(integers.astype(np.float32) - tensor.zero_point)
    real = steps.permute(0, 3, 1, 2) * tensor.scale
    exact = values.detach().clone()
    exact[torch.from_numpy(rows)] = real.reshape(len(rows), *values.shape[1:])
    low, high = (tensor.scale * (end - tensor.zero_point) for end in (-128, 127))
    return straight_through(values, exact, low, high)


def _policy(deployed: Deployed) -> GatePolicy:
    """The deployed network's decisions. No gradient: what a gate costs is not asked here."""

    def policy(block: str, logits: Tensor) -> Tensor:
        # A static gate is a constant in the plan, too.
        return deployed.decisions.get(block, learned(block, logits))

    return policy


def forward(
    model: GatedResNet, deployed: Deployed, pixels: Tensor, observe: Observer | None = None
) -> Output:
    """The output of `model` in evaluation mode, with the values of `deployed` on these images.

    Args:
        deployed: of the same images and the model's present arrays.
        pixels: uint8 [n, H, W, C].
        observe: see `GatedResNet.forward`.
    """
    # An anchor's integer logit has a unit of its own.
    foreign = {
        f"{block.name}.gate.logit"
        for block in model.network.gated
        if block.gate is not None and block.gate.kind == "anchor"
    }

    def exact(name: str, values: Tensor) -> Tensor:
        return values if name in foreign else _replaced(values, name, deployed)

    output: Output = model(pixels, _policy(deployed), observe, exact=exact)
    return output

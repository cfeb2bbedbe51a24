"""Whether a plan that was read holds together: what export writes does, a damaged file may not.

Whoever has a plan can then run, emit and show it without looking again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cgate.core.errors import CgateError
from cgate.core.plan_types import (
    ROLES,
    Add,
    Addition,
    Conv2d,
    Convolution,
    Decision,
    DepthwiseConv2d,
    Margin,
    Mean,
    MeanMax,
    Op,
    Plan,
    Pool,
    Scratched,
    ShortcutPad,
    Softmax,
    Tensor,
    Threshold,
    Unit,
    Weights,
)

AGAIN = "export the checkpoint again"


def check_plan(plan: Plan, where: str) -> None:
    """Check that all names refer to something, and that units and ops fit together.

    Raises:
        CgateError: names the unit.
    """
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    if len(tensors) != len(plan.tensors):
        raise CgateError(f"{where}: two tensors have the same name")
    for tensor in plan.tensors:
        if not (0 < tensor.scale < float("inf") and -128 <= tensor.zero_point <= 127):
            raise CgateError(f"{where}: tensor {tensor.name} has no legal scale and zero point")
        if any(not 1 <= n <= 65535 for n in tensor.shape):
            raise CgateError(f"{where}: tensor {tensor.name} has shape {list(tensor.shape)}")
        if tensor.offset is not None and not 0 <= tensor.offset <= plan.arena_size - tensor.size:
            raise CgateError(f"{where}: tensor {tensor.name} lies outside the arena")
    for name in (plan.input, plan.output):
        if name not in tensors:
            raise CgateError(f"{where}: there is no tensor {name!r}")
    if tensors[plan.output].offset is not None or tensors[plan.input].offset is not None:
        raise CgateError(f"{where}: input and output lie in the arena, not with the caller", AGAIN)
    if len({unit.name for unit in plan.units}) != len(plan.units):
        raise CgateError(f"{where}: two units have the same name", AGAIN)
    if not plan.units or plan.units[-1].output != plan.output:
        raise CgateError(f"{where}: the last unit does not leave the output", AGAIN)
    ready = {plan.input}
    gates: set[str] = set()
    for i, unit in enumerate(plan.units):
        if unit.index != i or unit.role not in ROLES:
            raise CgateError(f"{where}.units[{i}]: index {unit.index}, role {unit.role!r}")
        if unit.condition is not None and unit.condition not in gates:
            raise CgateError(f"{where}.units[{i}]: no gate {unit.condition!r} before it")
        names = [*unit.inputs, unit.output]
        for op in unit.ops:
            names += [op.input] if isinstance(op, Decision) else [op.input, op.output]
            names += [op.stream] if isinstance(op, Addition) else []
            if isinstance(op, Scratched) and op.scratch is not None:
                offset, size = op.scratch
                if offset % 16 != 0 or not 0 <= offset <= plan.arena_size - size:
                    raise CgateError(f"{where}.units[{i}] ({unit.name}): scratch outside the arena")
        for name in names:
            if name not in tensors:
                raise CgateError(f"{where}.units[{i}] ({unit.name}): no tensor {name!r}")
        if unit.condition is not None:
            kept, output = tensors[unit.stream] if unit.inputs else None, tensors[unit.output]
            if kept is None or replace(kept, name=output.name) != output:
                raise CgateError(
                    f"{where}.units[{i}] ({unit.name}): its output does not replace its last input"
                )
        fault = _fault(unit, tensors, ready)
        if fault:
            raise CgateError(f"{where}.units[{i}] ({unit.name}): {fault}", AGAIN)
        ready.add(unit.output)
        if unit.role == "gate":
            gates.add(unit.name)
        if unit.role == "exit":
            answer, output = tensors[unit.output], tensors[plan.output]
            same = replace(answer, name=output.name) == output and answer.offset is None
            if not same:
                raise CgateError(
                    f"{where}.units[{i}] ({unit.name}): the logits of an exit must be like the "
                    "network's output"
                )
    if plan.choice is not None and len(plan.choice.rates) != len(plan.units):
        raise CgateError(f"{where}.choice: there are not as many rates as units", AGAIN)


def _fault(unit: Unit, tensors: dict[str, Tensor], ready: set[str]) -> str:
    """What is wrong with a unit that runs when `ready` has been computed; "" if nothing is."""
    known = set(unit.inputs)
    if not known <= ready:
        return f"{min(known - ready)} is not there yet"
    if unit.macs < 0 or not unit.ops:
        return "it has no ops, or a negative count of MACs"
    for op in unit.ops:
        read = {op.input, op.stream} if isinstance(op, Addition) else {op.input}
        if not read <= known:
            return f"{op.op} reads {min(read - known)}, which is not among the inputs"
        if isinstance(op, Decision):
            continue
        # A fully connected layer runs as the 1x1 convolution that it is.
        kernels = Conv2d.op if isinstance(op, Conv2d) else op.op
        if not op.kernel.startswith(f"{kernels}_s8__"):
            return f"{op.kernel!r} is no kernel of {op.op}"
        fault = _misfit(op, tensors)
        if fault:
            return f"{op.op}: {fault}"
        known.add(op.output)
    if unit.output not in known - set(unit.inputs):
        return f"it does not compute its output {unit.output}"
    last = unit.ops[-1]
    deciders: dict[str, type[Decision]] = {"gate": Threshold, "exit": Margin}
    decides = deciders.get(unit.role)
    found = [op for op in unit.ops if isinstance(op, Decision)]
    if (decides is None) != (not found) or found[1:]:
        return "gates and exits, and no others, decide once"
    if decides is not None and (not isinstance(last, decides) or last.input != unit.output):
        return f"it does not end in a {decides.op} of its output"
    if unit.role == "gate" and tensors[unit.output].size != 1:
        return "a gate has one logit"
    if unit.role == "exit" and tensors[unit.output].size < 2:
        return "an exit has two logits at least"
    return ""


def _misfit(op: Op, tensors: dict[str, Tensor]) -> str:
    """What is wrong with the numbers of an op, as far as they do not need the weights."""
    if isinstance(op, Decision):
        return ""
    source, target = tensors[op.input], tensors[op.output]
    if getattr(op, "macs", 0) < 0 or op.cost < 0:
        return "a count is negative"
    if isinstance(op, Convolution | Pool) and not (
        1 <= op.stride <= 65535 and all(0 <= n <= 65535 for n in op.padding)
    ):
        return f"stride {op.stride} or padding {list(op.padding)} is out of range"
    if isinstance(op, Convolution | Pool | Add):
        low, high = op.clamp
        if not -128 <= low <= high <= 127:
            return f"clamp {list(op.clamp)} is no range of int8"
    if isinstance(op, Pool):
        if min(op.size) < 1:
            return f"its window is {list(op.size)}"
        return _window_fault(source, target, op.size, op.stride, op.padding, source.shape[2])
    shape = source.shape
    if isinstance(op, Mean | MeanMax):
        shape = (1, 1, source.shape[2] * (2 if isinstance(op, MeanMax) else 1))
    elif isinstance(op, ShortcutPad):
        if not 1 <= op.stride <= 65535:
            return f"stride {op.stride} is out of range"
        if not 0 <= op.channels_before <= target.shape[2] - source.shape[2]:
            return f"{op.channels_before} channels before {source.shape[2]} do not fit"
        height, width = (-(-size // op.stride) for size in source.shape[:2])
        shape = (height, width, target.shape[2])
    elif isinstance(op, Addition) and tensors[op.stream].shape != source.shape:
        return "its two operands have different shapes"
    elif isinstance(op, Convolution):
        return ""  # see check_weights
    return "" if shape == target.shape else f"it makes {list(shape)}, not {list(target.shape)}"


def _window_fault(
    source: Tensor,
    target: Tensor,
    size: tuple[int, int],
    stride: int,
    padding: tuple[int, int, int, int],
    channels: int,
) -> str:
    """Whether windows of `size` over `source` come to the shape of `target`."""
    height = (source.shape[0] + padding[0] + padding[2] - size[0]) // stride + 1
    width = (source.shape[1] + padding[1] + padding[3] - size[1]) // stride + 1
    shape = (height, width, channels)
    return "" if shape == target.shape else f"it makes {list(shape)}, not {list(target.shape)}"


def check_weights(
    plan: Plan, op: Conv2d | DepthwiseConv2d | Softmax, weights: Weights, where: str
) -> None:
    """Check that the arrays of an op are there, and that their shapes are those of its tensors.

    Raises:
        CgateError: names the array; `where` begins the message.
    """
    if isinstance(op, Softmax):
        table = weights.get(op.table)
        if table is None or table.dtype != np.int32 or table.shape != (256,):
            raise CgateError(f"{where}: {op.table} is missing or not int32[256]", AGAIN)
        return
    outputs = plan.tensor(op.output).shape[2]
    inputs = plan.tensor(op.input).shape[2]
    for name, dtype in (
        (op.scale, np.float32),
        (op.bias, np.int32),
        (op.multiplier, np.int32),
        (op.shift, np.int8),
    ):
        array = weights.get(name)
        if array is None or array.dtype != dtype or array.shape != (outputs,):
            raise CgateError(f"{where}: {name} is missing or not {np.dtype(dtype)}[{outputs}]")
    kernel = weights.get(op.weights)
    if kernel is None or kernel.dtype != np.int8 or kernel.ndim != 4:
        raise CgateError(f"{where}: {op.weights} is missing or not int8 with four axes")
    shape = kernel.shape
    ends = (outputs, inputs) if isinstance(op, Conv2d) else (1, outputs)
    if (shape[0], shape[3]) != ends or any(not 1 <= n <= 255 for n in shape[1:3]):
        raise CgateError(f"{where}: {op.weights} has shape {list(shape)}")
    if isinstance(op, DepthwiseConv2d) and outputs % inputs != 0:
        raise CgateError(f"{where}: {op.weights} makes {outputs} channels from {inputs}")
    source, target = plan.tensor(op.input), plan.tensor(op.output)
    fault = _window_fault(source, target, (shape[1], shape[2]), op.stride, op.padding, outputs)
    if fault:
        raise CgateError(f"{where}: {op.weights} and {op.output}: {fault}", AGAIN)

"""An int8 .tflite network -> an ungated plan with the same integers.

One unit per operator, so that every later count is per operator. RESHAPE and PAD become nothing:
a reshaped tensor is the same bytes, and padding joins the convolution that follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cgate.core.errors import CgateError
from cgate.core.files import sha256
from cgate.core.imported import ImportedNetwork
from cgate.core.network import THRESHOLD
from cgate.core.plan import (
    Addition,
    Plan,
    Weights,
)
from cgate.core.targets import Target
from cgate.export.assemble import Assembly
from cgate.export.choose import Limits
from cgate.export.import_operators import (
    INPUT,
    NO_PADDING,
    Made,
    Operators,
    Refused,
    View,
    activation_scale,
    map_shape,
    unbatched,
)
from cgate.export.tflite_reader import FileGraph, FileOperator, read_tflite

CONVERTERS: Mapping[str, Callable[[Operators, FileOperator, str], list[Made]]] = {
    "CONV_2D": Operators.conv2d,
    "DEPTHWISE_CONV_2D": Operators.conv2d,
    "FULLY_CONNECTED": Operators.fully_connected,
    "ADD": Operators.add,
    "AVERAGE_POOL_2D": Operators.pool,
    "MAX_POOL_2D": Operators.pool,
    "MEAN": Operators.mean,
    "PAD": Operators.pad,
    "RESHAPE": Operators.reshape,
    "SQUEEZE": Operators.reshape,
    "EXPAND_DIMS": Operators.reshape,
    "QUANTIZE": Operators.quantize,
    "SOFTMAX": Operators.softmax,
}
"""What is supported, by the format's names."""

MAX_UNITS = 255  # a unit's index is its marker's number, and 255 marks an inference


def _run(operators: Operators) -> str:
    """Import everything; returns the name of the output tensor."""
    graph = operators.graph
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise CgateError(
            f"the network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
            "supported is one of each"
        )
    if not operators.needed or graph.outputs[0] in graph.inputs:
        raise CgateError("the network computes nothing: its output is no operator's")
    if len(operators.needed) > MAX_UNITS:
        raise CgateError(f"{len(operators.needed)} operators, at most {MAX_UNITS} are supported")
    try:
        source = graph.tensors[graph.inputs[0]]
        shape = unbatched(source)
        operators.draft.tensor(INPUT, map_shape(shape), activation_scale(source))
        operators.views[graph.inputs[0]] = View(INPUT, shape)
    except Refused as refusal:
        raise CgateError(f"the network's input: {refusal.reason}", refusal.hint) from refusal
    for place, operator in operators.needed:
        operators.place = place
        _step(operators, place, operator)
    output = operators.views[graph.outputs[0]]
    if output.padding != NO_PADDING or not operators.draft.units:
        raise CgateError("the network ends in a PAD or begins with its end")
    if operators.draft.units[-1].output != output.name:
        raise CgateError("the network's output is not what its last operator computes")
    operators.draft.units[-1] = replace(operators.draft.units[-1], role="head")
    return output.name


def _step(operators: Operators, place: int, operator: FileOperator) -> None:
    """Add the unit of one operator."""
    title = f"operator {place} ({operator.op}, which makes {_made(operators.graph, operator)})"
    convert = CONVERTERS.get(operator.op)
    if convert is None:
        raise CgateError(
            f"{title} is not supported; supported are {', '.join(CONVERTERS)}",
            "leave it out of the network, or express it by these",
        )
    try:
        name = f"{operator.op.lower()}_{place}"
        ops = convert(operators, operator, name)
    except Refused as refusal:
        raise CgateError(f"{title}: {refusal.reason}", refusal.hint) from refusal
    if ops:
        made = {op.output for op in ops}
        reads = [op.input for op in ops]
        reads += [op.stream for op in ops if isinstance(op, Addition)]
        inputs = tuple(dict.fromkeys(each for each in reads if each not in made))
        operators.draft.unit(name, "layer", inputs, ops)


def _made(graph: FileGraph, operator: FileOperator) -> str:
    tensors = [graph.tensors.get(index) for index in operator.outputs]
    return ", ".join(repr(each.name) for each in tensors if each is not None) or "nothing"


def network_name(path: Path) -> str:
    """The name of the network in a file: the file's, made of the characters that a name may have.

    A description of the network stands in comments of the generated C.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:63]
    return name or "imported"


def import_tflite(
    content: bytes,
    where: str,
    target: Target,
    *,
    network: str,
    name: str = "model",
    kernels: str = "auto",
    limits: Limits | None = None,
) -> tuple[Plan, Weights]:
    """Make the plan of an int8 .tflite network for a target.

    Args:
        content: the file's bytes.
        where: how errors name the file.
        network: the network's name, see `network_name`.
        name: C identifier that prefixes the generated code.
        kernels: one of choose.CHOICES.
        limits: what the program may take of the target's memory; None: all of it.

    Raises:
        CgateError: the file is damaged, or holds something that is not supported; the message
            names the operator, its index, its output, and what is supported.
    """
    operators = Operators(read_tflite(content, where))
    try:
        output = _run(operators)
    except CgateError as error:
        raise CgateError(f"{where}: {error.message}", error.hint) from error
    draft = operators.draft
    classes = draft.tensors[output].size
    assembly = Assembly(
        draft,
        target,
        kernels,
        name=name,
        source_sha256=sha256(content),
        threshold=THRESHOLD,
        classes=[str(i) for i in range(classes)],
        network=ImportedNetwork(network, draft.tensors[INPUT].shape, classes),
        dense_macs=sum(unit.macs for unit in draft.units),
    )
    return assembly.plan(limits), draft.weights

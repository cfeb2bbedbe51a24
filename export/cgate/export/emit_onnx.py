"""Float checkpoint -> ONNX: one file per unit of the plan, and one of the whole network with If.

Made from the float weights, not from the plan's integers: what a runtime for float networks runs,
and what the int8 network approximates. Batch norm is folded in. Tensors are NCHW.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cgate.core.checkpoint import Checkpoint
from cgate.core.errors import EXIT_TOOL_MISSING, CgateError
from cgate.core.network import Block, Conv
from cgate.core.plan import Plan, Unit
from cgate.core.version import __version__
from cgate.export.emit_tflite import decision_name
from cgate.export.fold import FloatConv, fold

NETWORK_FILE = "model.onnx"
LOGITS = "logits"
OPSET, IR_VERSION = 18, 8  # onnxruntime 1.14 and later
BATCH = "images"


def require_onnx() -> ModuleType:
    """The onnx package.

    Raises:
        CgateError: it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise CgateError(
            "the package onnx is not installed, which --onnx needs",
            'pip install "cgate[onnx]"',
            EXIT_TOOL_MISSING,
        ) from error


class _Graph:
    """Nodes in order. Constants are kept in one place for a graph and all graphs inside it."""

    def __init__(self, onnx: ModuleType, constants: dict[str, Any]) -> None:
        self.onnx = onnx
        self.constants = constants
        self.nodes: list[Any] = []

    def inner(self) -> _Graph:
        return _Graph(self.onnx, self.constants)

    def node(
        self, op: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: Any
    ) -> None:
        outputs = [output] if isinstance(output, str) else list(output)
        name = f"{op} {outputs[0]}"
        node = self.onnx.helper.make_node(op, list(inputs), outputs, name=name, **attributes)
        self.nodes.append(node)

    def constant(self, name: str, value: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        array = np.ascontiguousarray(np.asarray(value, dtype))
        self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name


class _Emitter:
    """Adds units to graphs, in the float arithmetic that was trained."""

    def __init__(self, plan: Plan, checkpoint: Checkpoint) -> None:
        self.onnx = require_onnx()
        self.plan = plan
        self.weights = checkpoint.weights
        self.network = checkpoint.network
        self.layers = fold(checkpoint)
        self.cut = math.log(plan.threshold / (1 - plan.threshold))
        self.blocks = {block.name: block for block in self.network.blocks}
        self.decisions = [decision_name(gate.name) for gate in plan.gates]

    # Units

    def unit(self, unit: Unit, graph: _Graph, output: str, decision: str) -> None:
        """Add the nodes of `unit`, which leave `output` and, if it decides, `decision`."""
        if unit.role == "stem":
            self.conv(graph, "stem", self.network.stem, unit.inputs[0], output)
        elif unit.role == "shortcut":
            self.shortcut(unit, graph, output)
        elif unit.role == "pool":
            self.pool(unit, graph, output)
        elif unit.role == "body":
            self.body(unit, graph, output)
        elif unit.role == "gate":
            self.gate(unit, graph, output, decision)
        elif unit.role == "exit":
            self.exit(unit, graph, output, decision)
        else:
            self.linear(graph, "head", self.pooled(graph, unit.inputs[0], "head.mean"), output)

    def block(self, unit: Unit) -> Block:
        assert unit.block is not None
        return self.blocks[unit.block]

    def conv(self, graph: _Graph, name: str, conv: Conv, source: str, output: str) -> None:
        layer: FloatConv = self.layers[name]
        weights = graph.constant(f"{name}.weight", layer.weights.transpose(0, 3, 1, 2))
        bias = graph.constant(f"{name}.bias", layer.bias)
        pad = conv.kernel // 2
        total = f"{output}/sum" if conv.relu else output
        graph.node(
            "Conv",
            [source, weights, bias],
            total,
            kernel_shape=[conv.kernel] * 2,
            strides=[conv.stride] * 2,
            pads=[pad] * 4,
            group=conv.groups,
        )
        if conv.relu:
            self.activate(graph, total, output, conv)

    def activate(self, graph: _Graph, source: str, output: str, layer: Conv | Block) -> None:
        """What follows a convolution or an addition."""
        if layer.relu6:
            ends = [graph.constant(f"{output}/{value}", value) for value in (0, 6)]
            graph.node("Clip", [source, *ends], output)
        else:
            graph.node("Relu" if layer.relu else "Identity", [source], output)

    def pool(self, unit: Unit, graph: _Graph, output: str) -> None:
        pool = self.network.stem_pool if unit.block is None else self.block(unit).pool
        assert pool is not None
        graph.node(
            "MaxPool" if pool.kind == "max" else "AveragePool",
            [unit.inputs[0]],
            output,
            kernel_shape=[pool.size] * 2,
            strides=[pool.stride] * 2,
            pads=[pool.padding] * 4,
        )

    def linear(self, graph: _Graph, name: str, source: str, output: str) -> None:
        layer = self.layers[name]
        weights = graph.constant(f"{name}.weight", layer.weights[:, 0, 0, :])
        bias = graph.constant(f"{name}.bias", layer.bias)
        graph.node("Gemm", [source, weights, bias], output, transB=1)

    def pooled(self, graph: _Graph, source: str, name: str, op: str = "GlobalAveragePool") -> str:
        """Mean (or maximum) over the map, [N, C]; returns its name."""
        graph.node(op, [source], f"{name}/map")
        graph.node("Flatten", [f"{name}/map"], name)
        return name

    def shortcut(self, unit: Unit, graph: _Graph, output: str) -> None:
        """A projection, or every stride-th pixel between zero channels (option A)."""
        block, source = self.block(unit), unit.inputs[0]
        if unit.output != f"{block.name}.shortcut":
            # What is left of a sum where its gate is shut.
            self.activate(graph, source, output, block)
            return
        if block.projection is not None:
            self.conv(graph, output, block.projection, source, output)
            return
        added = block.body[-1].out_channels - block.body[0].in_channels
        if block.stride > 1:
            ends = {"starts": [0, 0], "ends": [2**31 - 1] * 2, "axes": [2, 3]}
            ends["steps"] = [block.stride] * 2
            names = [graph.constant(f"{output}/{key}", v, np.int64) for key, v in ends.items()]
            graph.node("Slice", [source, *names], f"{output}/picked")
            source = f"{output}/picked"
        before = added // 2
        pads = [0, before, 0, 0, 0, added - before, 0, 0]
        graph.node("Pad", [source, graph.constant(f"{output}/pads", pads, np.int64)], output)

    def body(self, unit: Unit, graph: _Graph, output: str) -> None:
        block = self.block(unit)
        source = unit.inputs[0]
        shortcut = f"{block.name}.shortcut"
        stream = shortcut if shortcut in unit.inputs else source
        for i, conv in enumerate(block.body, 1):
            name = f"{block.name}.conv{i}"
            self.conv(graph, name, conv, source, name)
            source = name
        if block.shortcut != "none":
            graph.node("Add", [stream, source], f"{output}/sum")
            source = f"{output}/sum"
        self.activate(graph, source, output, block)

    def gate(self, unit: Unit, graph: _Graph, output: str, decision: str) -> None:
        block, name = self.block(unit), unit.name
        assert block.gate is not None
        seen = self.pooled(graph, unit.inputs[0], f"{name}.mean")
        if block.gate.kind == "anchor":
            self.anchor(name, graph, seen, output)
        else:
            if block.gate.kind == "cir-predicted":
                peak = self.pooled(graph, unit.inputs[0], f"{name}.peak", "GlobalMaxPool")
                graph.node("Concat", [seen, peak], f"{name}.statistics", axis=1)
                seen = f"{name}.statistics"
            self.linear(graph, f"{name}.fc1", seen, f"{name}.hidden/sum")
            graph.node("Relu", [f"{name}.hidden/sum"], f"{name}.hidden")
            self.linear(graph, f"{name}.fc2", f"{name}.hidden", output)
        cut = graph.constant(f"{name}.threshold", self.cut)
        graph.node("Greater", [output, cut], decision)

    def anchor(self, name: str, graph: _Graph, mean: str, logit: str) -> None:
        """Temperature times the difference of the cosines to the anchors, plus the cut."""
        temperature = math.exp(float(self.weights[f"blocks.{name}.log_temperature"][0]))
        axes = graph.constant(f"{name}.axes", [1], np.int64)
        graph.node("ReduceL2", [mean, axes], f"{name}.length", keepdims=1)
        # A mean of all zeros has no direction; torch's normalize divides by this too.
        least = graph.constant(f"{name}.least", 1e-12)
        graph.node("Max", [f"{name}.length", least], f"{name}.norm")
        graph.node("Div", [mean, f"{name}.norm"], f"{name}.direction")
        side = self.layers[f"{name}.side"].weights[:, 0, 0, :]
        weights = graph.constant(f"{name}.side", temperature * side)
        bias = graph.constant(f"{name}.bias", [self.cut])
        graph.node("Gemm", [f"{name}.direction", weights, bias], logit, transB=1)

    def exit(self, unit: Unit, graph: _Graph, output: str, decision: str) -> None:
        name = unit.name
        margin = next(each.margin for each in self.network.exits if each.block == unit.block)
        self.linear(graph, name, self.pooled(graph, unit.inputs[0], f"{name}.mean"), output)
        two = graph.constant(f"{name}.two", [2], np.int64)
        graph.node("TopK", [output, two], [f"{name}.largest", f"{name}.indices"])
        ones = graph.constant(f"{name}.ones", [1, 1], np.int64)
        parts = [f"{name}.first", f"{name}.second"]
        graph.node("Split", [f"{name}.largest", ones], parts, axis=1)
        graph.node("Sub", parts, f"{name}.margin")
        cut = graph.constant(f"{name}.threshold", math.inf if margin is None else margin)
        graph.node("LessOrEqual", [f"{name}.margin", cut], decision)

    # Files

    def value(self, name: str, like: str, images: int | str) -> Any:
        """The declaration of `name`, which is like this tensor of the plan, or a decision."""
        make, kind = self.onnx.helper.make_tensor_value_info, self.onnx.TensorProto
        if like in self.decisions:
            return make(name, kind.BOOL, [images, 1])
        height, width, channels = self.plan.tensor(like).shape
        vectors = {unit.output for unit in self.plan.units if unit.role in ("gate", "exit", "head")}
        shape = [channels] if like in vectors else [channels, height, width]
        return make(name, kind.FLOAT, [images, *shape])

    def file(
        self, title: str, graph: _Graph, inputs: Iterable[Any], outputs: Iterable[Any]
    ) -> bytes:
        helper, network = self.onnx.helper, self.network
        constants = list(graph.constants.values())
        made = helper.make_graph(graph.nodes, title, list(inputs), list(outputs), constants)
        model = helper.make_model(
            made,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="cgate",
            producer_version=__version__,
            doc_string="float32, NCHW; the network's input is "
            f"(pixel - {network.input_zero}) / {network.input_divisor}",
        )
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def unit_model(self, unit: Unit) -> bytes:
        """A unit alone, for any number of images."""
        graph = _Graph(self.onnx, {})
        self.unit(unit, graph, unit.output, decision_name(unit.name))
        outputs = [unit.output]
        if unit in self.plan.gates:
            outputs.append(decision_name(unit.name))
        return self.file(
            unit.name,
            graph,
            [self.value(name, name, BATCH) for name in unit.inputs],
            [self.value(name, name, BATCH) for name in outputs],
        )

    def branch(self, graph: _Graph, name: str, outputs: Mapping[str, str]) -> Any:
        """A graph without inputs: it sees what surrounds it. Outputs: {name: like what}."""
        values = [self.value(own, like, 1) for own, like in outputs.items()]
        return self.onnx.helper.make_graph(graph.nodes, name, [], values)

    def handing_on(self, graph: _Graph, name: str, sources: Mapping[str, str]) -> Any:
        """A branch that computes nothing. Sources: {like what: name of what it hands on}."""
        inner = graph.inner()
        for like, source in sources.items():
            inner.node("Identity", [source], f"{like}/{name}")
        return self.branch(inner, name, {f"{like}/{name}": like for like in sources})

    def sequence(self, units: Sequence[Unit], graph: _Graph) -> dict[str, str]:
        """Add `units` to `graph`.

        Returns:
            Under which name the graph holds the plan's output and each decision of these units.
            No two graphs, of which one lies in the other, hold the same name.
        """
        held: dict[str, str] = {}
        for place, unit in enumerate(units, 1):
            if unit.condition is not None:
                self.gated(unit, graph)
                continue
            decision = decision_name(unit.name)
            self.unit(unit, graph, unit.output, inside(decision))
            if unit in self.plan.gates:
                held[decision] = inside(decision)
            if unit.role == "exit":
                return held | self.leaving(unit, units[place:], graph)
        return {self.plan.output: self.plan.output, **held}

    def gated(self, unit: Unit, graph: _Graph) -> None:
        """If around a body; the other branch hands the stream on."""
        assert unit.condition is not None
        inner, made = graph.inner(), f"{unit.output}/run"
        self.unit(unit, inner, made, "")
        graph.node(
            "If",
            [inside(decision_name(unit.condition))],
            unit.output,
            then_branch=self.branch(inner, "run", {made: unit.output}),
            else_branch=self.handing_on(graph, "skipped", {unit.output: unit.stream}),
        )

    def leaving(self, unit: Unit, rest: Sequence[Unit], graph: _Graph) -> dict[str, str]:
        """If around all that follows an exit; where it is left, later decisions are shut too."""
        inner, decision = graph.inner(), inside(decision_name(unit.name))
        held = self.sequence(rest, inner)
        left = {like: decision for like in held} | {self.plan.output: unit.output}
        outputs = {like: f"{like}/behind {unit.name}" for like in held}
        graph.node(
            "If",
            [decision],
            list(outputs.values()),
            then_branch=self.branch(inner, "stayed", {name: like for like, name in held.items()}),
            else_branch=self.handing_on(graph, f"{unit.name} left", left),
        )
        return outputs

    def network_model(self) -> bytes:
        """All units, for one image."""
        graph = _Graph(self.onnx, {})
        held = self.sequence(self.plan.units, graph)
        names = {self.plan.output: LOGITS, **{name: name for name in self.decisions}}
        for like, name in names.items():
            graph.node("Identity", [held[like]], name)
        return self.file(
            self.network.name,
            graph,
            [self.value(self.plan.input, self.plan.input, 1)],
            [self.value(name, like, 1) for like, name in names.items()],
        )


def inside(decision: str) -> str:
    """Name of a decision within the whole network, whose outputs have the names of decisions."""
    return f"{decision}?"


def onnx_file(unit: Unit) -> str:
    """File name of a unit's ONNX, within the bundle."""
    return f"units/{unit.index:02d}_{unit.name}.onnx"


def emit_onnx(plan: Plan, checkpoint: Checkpoint) -> Mapping[str, bytes]:
    """The ONNX files of a network, by name within the bundle.

    A unit's file takes the unit's inputs, for any number of images, and gives its output and, of a
    gate or an exit, the decision, bool [images, 1]. The network's takes "input", float32
    [1, C, H, W], and gives "logits", float32 [1, classes], and every decision in the plan's order,
    false where it was not reached.

    Args:
        plan: the checkpoint's own: which units there are, and the gates' threshold.

    Raises:
        CgateError: the package onnx is not installed.
    """
    emitter = _Emitter(plan, checkpoint)
    files = {onnx_file(unit): emitter.unit_model(unit) for unit in plan.units}
    return {NETWORK_FILE: emitter.network_model(), **files}

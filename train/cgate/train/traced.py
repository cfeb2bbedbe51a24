"""A plain torch module as a chain of steps, read from its torch.fx graph.

What the description of a network can say is recognised by what the nodes do, not by the names of
modules; everything else is refused with the path of the module that does it.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cgate.core.errors import CgateError
from cgate.core.network import Conv, Pool

SUPPORTED = (
    "Conv2d (square, odd, padding = kernel // 2), BatchNorm2d, ReLU, ReLU6, MaxPool2d, AvgPool2d, "
    "AdaptiveAvgPool2d(1), mean over height and width, flatten, Linear, Dropout, additions of two "
    "branches, and [:, :, ::s, ::s] with pad (option A)"
)


@dataclass(frozen=True)
class Layer:
    """A convolution with what belongs to it.

    Args:
        path: of the convolution's module, for errors.
        shape: as described; its activation is the one that follows.
    """

    path: str
    shape: Conv
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None


@dataclass(frozen=True)
class Step:
    """A piece of the chain: a convolution, or a sum of a body and a shortcut.

    Args:
        body: one layer for a plain unit, at least one for a residual branch.
        shortcut: as in a description; "none" for a plain unit.
        projection: the layer of a shortcut "projection".
        relu, relu6: what follows the sum, or the plain unit's layer.
        pool: what follows that.
    """

    body: tuple[Layer, ...]
    shortcut: str
    projection: Layer | None
    relu: bool
    relu6: bool
    pool: Pool | None


@dataclass(frozen=True)
class Traced:
    """A module as steps, the first of which is the stem, and the linear layer of its head."""

    steps: tuple[Step, ...]
    head: nn.Linear


class _Values(fx.Interpreter):
    """Runs the graph once and keeps the shape of every tensor, and every other value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.others: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; called by `run`."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        else:
            self.others[n] = value
        return value


_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    torch.relu_: "relu",
    functional.relu: "relu",
    functional.relu_: "relu",
    functional.relu6: "relu6",
    functional.max_pool2d: "max",
    functional.avg_pool2d: "average",
    functional.adaptive_avg_pool2d: "adaptive",
    functional.dropout: "nothing",
    functional.pad: "pad",
    torch.mean: "mean",
    torch.flatten: "flatten",
    torch.add: "add",
    operator.add: "add",
    operator.iadd: "add",
    operator.getitem: "slice",
}
_METHODS = {
    "relu": "relu",
    "relu_": "relu",
    "add": "add",
    "add_": "add",
    "mean": "mean",
    "view": "flatten",
    "reshape": "flatten",
    "flatten": "flatten",
    "contiguous": "nothing",
}
_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.BatchNorm2d: "norm",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.MaxPool2d: "max",
    nn.AvgPool2d: "average",
    nn.AdaptiveAvgPool2d: "adaptive",
    nn.Flatten: "flatten",
    nn.Linear: "linear",
    nn.Dropout: "nothing",
    nn.Dropout2d: "nothing",
    nn.Identity: "nothing",
}

_POOLING: dict[str, dict[str, Any]] = {
    "max": {
        "kernel_size": 0,
        "stride": None,
        "padding": 0,
        "dilation": 1,
        "ceil_mode": False,
        "return_indices": False,
    },
    "average": {
        "kernel_size": 0,
        "stride": None,
        "padding": 0,
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": None,
    },
}
"""Arguments of pooling in torch's order, and their defaults."""


def _single(value: Any) -> int | None:
    """The number that an int or a tuple of equal ints stands for, or None."""
    values = set(value) if isinstance(value, tuple | list) else {value}
    (only,) = values if len(values) == 1 else (None,)
    return only if isinstance(only, int) else None


class _Reader:
    """Follows the graph from the input to the head."""

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        try:
            self.graph = fx.symbolic_trace(module)
        except Exception as error:  # tracing runs the user's code: anything can come out of it
            raise CgateError(
                f"{type(module).__name__} cannot be traced by torch.fx: {error}",
                "its forward must not branch on values or shapes of tensors; move such code out "
                "of it",
            ) from error
        values = _Values(self.graph)
        with torch.inference_mode():
            values.run(images)
        self.shapes, self.others = values.shapes, values.others
        self.kinds = {node: self.kind(node) for node in self.graph.graph.nodes}

    # What the graph says

    def path(self, node: fx.Node) -> str:
        """Where the node is in the module, for errors."""
        if node.op == "call_module":
            return str(node.target)
        stack = [path for path in node.meta.get("nn_module_stack", {}) if path]
        return f"{stack[-1]} ({node.name})" if stack else node.name

    def refuse(self, node: fx.Node, why: str) -> CgateError:
        return CgateError(f"{self.path(node)}: {why}", f"supported are {SUPPORTED}")

    def layer(self, node: fx.Node) -> Any:
        return self.graph.get_submodule(str(node.target))

    def what(self, node: fx.Node) -> str:
        """The node's module class, function or method."""
        if node.op == "call_module":
            return type(self.layer(node)).__name__
        return str(getattr(node.target, "__name__", node.target))

    def kind(self, node: fx.Node) -> str:
        """What the node does; "value" if it makes no tensor of other tensors."""
        if node.op in ("placeholder", "output"):
            return node.op
        if node not in self.shapes:
            return "value"
        if node.op == "call_module":
            found = _MODULES.get(type(self.layer(node)))
        elif node.op == "call_method":
            found = _METHODS.get(str(node.target))
        else:
            found = _FUNCTIONS.get(node.target)
        if found is None:
            raise self.refuse(node, f"{self.what(node)} is not supported")
        if found == "adaptive" and self.shapes[node] == self.shapes[node.all_input_nodes[0]]:
            return "nothing"
        return found

    def options(self, node: fx.Node, **defaults: Any) -> dict[str, Any]:
        """The arguments behind the first, by name, of a module or of a call."""
        if node.op == "call_module":
            return {name: getattr(self.layer(node), name, each) for name, each in defaults.items()}
        given = fx.node.map_arg((node.args[1:], node.kwargs), lambda each: self.others[each])
        values = dict(zip(defaults, given[0], strict=False)) | given[1]
        return {name: values.get(name, each) for name, each in defaults.items()}

    def users(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that do something with the node's tensor."""
        found: list[fx.Node] = []
        for user in node.users:
            kind = self.kinds[user]
            if kind == "nothing":
                found += self.users(user)
            elif kind != "value":
                found.append(user)
        return found

    def following(self, node: fx.Node, *kinds: str) -> fx.Node | None:
        """The only user of the node, if it is of one of these kinds."""
        users = self.users(node)
        return users[0] if len(users) == 1 and self.kinds[users[0]] in kinds else None

    # Pieces

    def convolution(self, node: fx.Node) -> tuple[Layer, fx.Node]:
        """A convolution with its norm and activation, and the last of these nodes."""
        conv = self.layer(node)
        kernel, stride = _single(conv.kernel_size), _single(conv.stride)
        if kernel is None or kernel % 2 == 0:
            raise self.refuse(node, f"a kernel of {conv.kernel_size} is not square and odd")
        if stride is None or _single(conv.dilation) != 1 or conv.padding_mode != "zeros":
            raise self.refuse(
                node,
                f"stride {conv.stride}, dilation {conv.dilation} or padding mode "
                f"{conv.padding_mode!r} is not supported",
            )
        same = conv.padding == "same" and stride == 1
        if not same and _single(conv.padding) != kernel // 2:
            raise self.refuse(node, f"padding {conv.padding} is not {kernel // 2}")
        if conv.groups not in (1, conv.in_channels):
            raise self.refuse(node, f"{conv.groups} groups are neither 1 nor all channels")
        norm = self.following(node, "norm")
        end = norm or node
        active = self.following(end, "relu", "relu6")
        shape = Conv(
            conv.in_channels,
            conv.out_channels,
            kernel,
            stride,
            active is not None,
            conv.groups,
            active is not None and self.kinds[active] == "relu6",
        )
        layer = Layer(self.path(node), shape, conv, None if norm is None else self.layer(norm))
        return layer, active or end

    def pool(self, node: fx.Node) -> tuple[Pool | None, fx.Node]:
        """The pool that follows the node, if one does, and where it ends."""
        found = self.following(node, "max", "average")
        if found is None or (self.kinds[found] == "average" and self.whole(found)):
            return None, node
        kind = self.kinds[found]
        options = self.options(found, **_POOLING[kind])
        size, padding = _single(options["kernel_size"]), _single(options["padding"])
        stride = _single(options["stride"] or options["kernel_size"])
        usual = all(
            options[key] in (each, (each, each))
            for key, each in _POOLING[kind].items()
            if key not in ("kernel_size", "stride", "padding", "count_include_pad")
        )
        if size is None or stride is None or padding is None or not usual:
            raise self.refuse(found, f"pooling with {options} is not supported")
        if kind == "average" and padding:
            raise self.refuse(found, "an average over padding is not supported")
        return Pool(kind, size, stride, padding), found

    def whole(self, node: fx.Node) -> bool:
        """Whether one value per channel is left."""
        shape = self.shapes[node]
        return len(shape) == 2 or shape[2:] == (1, 1)

    def plain(self, node: fx.Node) -> tuple[Step, fx.Node]:
        if self.kinds[node] != "conv":
            raise self.refuse(node, f"{self.what(node)} is not supported here")
        layer, end = self.convolution(node)
        pool, end = self.pool(end)
        return Step((layer,), "none", None, layer.shape.relu, layer.shape.relu6, pool), end

    def branch(self, node: fx.Node) -> tuple[list[Layer], int, fx.Node]:
        """The layers, the subsampling and the addition of a branch that begins with `node`."""
        layers: list[Layer] = []
        stride = 0
        while self.kinds[node] != "add":
            if self.kinds[node] == "conv":
                layer, end = self.convolution(node)
                layers.append(layer)
            elif self.kinds[node] in ("slice", "pad"):
                stride, end = max(stride, self.option_a(node)), node
            else:
                raise self.refuse(node, f"{self.what(node)} is not supported in a branch of a sum")
            users = self.users(end)
            if len(users) != 1:
                raise self.refuse(end, f"inside a branch of a sum it is used {len(users)} times")
            node = users[0]
        return layers, stride, node

    def option_a(self, node: fx.Node) -> int:
        """The stride of [:, :, ::s, ::s], 1 for a pad of channels."""
        if self.kinds[node] == "slice":
            whole, step = slice(None), self.options(node, index=())["index"]
            if isinstance(step, tuple) and len(step) == 4 and step[:2] == (whole, whole):
                stride = step[2].step if isinstance(step[2], slice) else None
                if isinstance(stride, int) and step[2:] == (slice(None, None, stride),) * 2:
                    return stride
            raise self.refuse(node, f"the index {step} is not [:, :, ::s, ::s]")
        options = self.options(node, pad=(), mode="constant", value=None)
        pad = tuple(options["pad"])
        added = sum(pad[4:6])
        if options["mode"] != "constant" or options["value"] or pad[:4] != (0,) * 4:
            raise self.refuse(node, f"pad with {options} is not a pad of channels with zeros")
        if len(pad) != 6 or pad[4] != added // 2:
            raise self.refuse(node, f"{pad[4:]} channels are not half before and half after")
        return 1

    def block(self, users: list[fx.Node]) -> tuple[Step, fx.Node]:
        """A sum of two branches that begin with these nodes."""
        branches = [self.branch(user) for user in users]
        add = branches[0][2]
        if branches[1][2] is not add:
            raise self.refuse(add, "it adds branches that begin in different places")
        (body, strange, _), (rest, stride, _) = sorted(branches, key=lambda each: -len(each[0]))
        if not body or strange or len(rest) > 1 or (rest and stride):
            raise self.refuse(add, "one branch has to be the body, the other a shortcut")
        if body[-1].shape.relu:
            raise self.refuse(add, f"its branch ends in a ReLU, behind {body[-1].path}")
        total = 1
        for layer in body:
            total *= layer.shape.stride
        shortcut = "projection" if rest else "pad" if stride else "identity"
        if rest:
            wanted = Conv(
                body[0].shape.in_channels, body[-1].shape.out_channels, 1, total, relu=False
            )
            if rest[0].shape != wanted:
                raise self.refuse(
                    add, f"its shortcut {rest[0].path} is no 1x1 convolution with stride {total}"
                )
        if shortcut == "pad" and stride != total:
            raise self.refuse(add, f"the shortcut's stride is {stride}, the body's {total}")
        active = self.following(add, "relu", "relu6")
        pool, end = self.pool(active or add)
        relu6 = active is not None and self.kinds[active] == "relu6"
        projection = rest[0] if rest else None
        return Step(tuple(body), shortcut, projection, active is not None, relu6, pool), end

    def head(self, node: fx.Node) -> nn.Linear:
        """The linear layer behind the mean over the map, of which `node` is the first."""
        while self.kinds[node] != "linear":
            kind, before = self.kinds[node], self.shapes.get(node.all_input_nodes[0], ())
            if kind == "mean":
                dims = self.options(node, dim=())["dim"]
                dims = dims if isinstance(dims, tuple | list) else (dims,)
                if {each % 4 for each in dims if isinstance(each, int)} != {2, 3}:
                    raise self.refuse(node, f"mean over {dims} is not one over height and width")
            elif kind == "flatten" and self.shapes[node] != before[:2]:
                made, of = self.shapes[node][1:], before[1:]
                raise self.refuse(node, f"it makes {made} of {of}: the mean of the map is missing")
            elif kind not in ("adaptive", "average", "flatten"):
                raise self.refuse(
                    node, f"{self.what(node)} is not supported before the linear layer"
                )
            if not self.whole(node):
                raise self.refuse(node, f"it leaves a map of {self.shapes[node][2:]} pixels")
            users = self.users(node)
            if len(users) != 1:
                raise self.refuse(node, f"before the linear layer it is used {len(users)} times")
            node = users[0]
        if [self.kinds[user] for user in self.users(node)] != ["output"]:
            raise self.refuse(node, "something follows the linear layer")
        head = self.layer(node)
        assert isinstance(head, nn.Linear)
        return head

    def read(self) -> Traced:
        """Follow the stream from the input to the head."""
        inputs = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise CgateError(f"its forward takes {len(inputs)} tensors", "supported is one")
        node = inputs[0]
        steps: list[Step] = []
        while True:
            users = self.users(node)
            kinds = [self.kinds[user] for user in users]
            if kinds in (["mean"], ["adaptive"], ["average"], ["flatten"], ["linear"]):
                return Traced(tuple(steps), self.head(users[0]))
            if len(users) == 2:
                step, node = self.block(users)
            elif len(users) == 1:
                step, node = self.plain(users[0])
            else:
                raise self.refuse(node, f"it is used {len(users)} times; supported are 1 and 2")
            steps.append(step)


def trace(module: nn.Module, images: Tensor) -> Traced:
    """Read a module as a chain of steps.

    Args:
        module: in evaluation mode.
        images: float32 [N, C, H, W], what its forward takes.

    Raises:
        CgateError: it cannot be traced, or does something that a network cannot say; the message
            has the path of the module and the op, the hint what is supported.
    """
    return _Reader(module, images).read()

"""Plan -> one .tflite of the whole network, in which a skipped body is an IF branch not taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cgate.core.plan import Plan, Unit, Weights
from cgate.export.emit_tflite import decision_name, emit_unit, plan_tensor
from cgate.export.tflite import Model, Subgraph

NETWORK_FILE = "model.tflite"
SIGNATURE = "serving_default"
LOGITS = "logits"
"""Name of the first output: int8 [1, classes]."""


class _Graph:
    """A subgraph and what it holds by name: plan tensors and decisions."""

    def __init__(self, plan: Plan, model: Model, name: str, inputs: Iterable[str]) -> None:
        self.plan = plan
        self.subgraph: Subgraph = model.subgraph(name)
        self.known: dict[str, int] = {}
        self.inputs = [self.declare(each) for each in inputs]

    def declare(self, name: str) -> int:
        """Add the tensor of this name: a decision, or the plan's tensor."""
        if name in {decision_name(gate.name) for gate in self.plan.gates}:
            index = self.subgraph.tensor(name, (1, 1, 1, 1), np.bool_)
        else:
            index = plan_tensor(self.subgraph, self.plan.tensor(name), name)
        self.known[name] = index
        return index

    def indices(self, names: Iterable[str]) -> list[int]:
        return [self.known[name] for name in names]


class _NetworkEmitter:
    """Builds the graphs of a plan: the main one, and two for every gated body and every exit."""

    def __init__(self, plan: Plan, weights: Weights) -> None:
        self.plan = plan
        self.weights = weights
        self.model = Model(f"cgate {plan.network.name}")
        self.decisions = [decision_name(gate.name) for gate in plan.gates]

    def graph(self, name: str, inputs: Iterable[str]) -> _Graph:
        return _Graph(self.plan, self.model, name, inputs)

    def compute(self, unit: Unit, graph: _Graph) -> None:
        """Add the unit's ops to `graph`."""
        decision = emit_unit(self.plan, self.weights, unit, graph.subgraph, graph.known)
        if decision is not None:
            graph.known[decision_name(unit.name)] = decision

    def sequence(self, units: Sequence[Unit], graph: _Graph) -> None:
        """Add `units` to `graph`; afterwards it knows the plan's output and their decisions."""
        for place, unit in enumerate(units, 1):
            if unit.condition is not None:
                self.gated(unit, graph)
                continue
            self.compute(unit, graph)
            if unit.role == "exit":
                self.leaving(unit, units[place:], graph)
                return

    def gated(self, unit: Unit, graph: _Graph) -> None:
        """IF around a body; the other branch hands the stream on."""
        assert unit.condition is not None
        names = list(dict.fromkeys(unit.inputs))
        then = self.graph(unit.name, names)
        self.compute(unit, then)
        then.subgraph.ends(then.inputs, then.indices([unit.output]))
        otherwise = self.graph(f"{unit.name}/skipped", names)
        otherwise.subgraph.ends(otherwise.inputs, otherwise.indices([unit.stream]))
        condition = graph.known[decision_name(unit.condition)]
        inputs, output = graph.indices(names), graph.declare(unit.output)
        graph.subgraph.branch(condition, then.subgraph, otherwise.subgraph, inputs, [output])

    def leaving(self, unit: Unit, rest: Sequence[Unit], graph: _Graph) -> None:
        """IF around all that follows an exit; the other branch hands the exit's logits on.

        There the decisions not reached are those of the exit itself: shut.
        """
        decision = decision_name(unit.name)
        needed = [unit.output, decision]
        for each in rest:
            needed += each.inputs
            if each.condition is not None:
                needed.append(decision_name(each.condition))
        names = [name for name in dict.fromkeys(needed) if name in graph.known]
        later = [decision_name(each.name) for each in rest if each in self.plan.gates]
        then = self.graph(f"after {unit.name}", names)
        self.sequence(rest, then)
        then.subgraph.ends(then.inputs, then.indices([self.plan.output, *later]))
        otherwise = self.graph(f"after {unit.name}/left", names)
        answers = otherwise.indices([unit.output, *[decision] * len(later)])
        otherwise.subgraph.ends(otherwise.inputs, answers)
        inputs = graph.indices(names)
        outputs = [graph.declare(name) for name in (self.plan.output, *later)]
        condition = graph.known[decision]
        graph.subgraph.branch(condition, then.subgraph, otherwise.subgraph, inputs, outputs)

    def emit(self) -> bytes:
        main = self.graph("main", [self.plan.input])
        self.sequence(self.plan.units, main)
        output = self.plan.tensor(self.plan.output)
        logits = plan_tensor(main.subgraph, output, LOGITS, (output.size,))
        main.subgraph.reshape(main.known[self.plan.output], logits)
        outputs = [logits, *main.indices(self.decisions)]
        main.subgraph.interface(main.inputs, outputs, SIGNATURE)
        return self.model.pack()


def emit_tflite_network(plan: Plan, weights: Weights) -> bytes:
    """The whole network as one .tflite, for one image at a time.

    Its input is int8 [1, H, W, C]; its outputs are "logits", int8 [1, classes], and the decision
    of every gate and exit in the plan's order, bool [1, 1, 1, 1], false where it was not reached.
    """
    return _NetworkEmitter(plan, weights).emit()

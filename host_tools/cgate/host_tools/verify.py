"""Bit for bit: numpy reference against TFLite's kernels, host C and the emulated target.

Every route runs the whole network on its own intermediate results, so a difference in any unit
or any gate decision shows; nothing is compared with a tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import CgateError
from cgate.core.imported import ImportedNetwork
from cgate.core.plan import Bundle, Unit, load_bundle
from cgate.core.progress import Progress, Silent
from cgate.core.targets import Target, emulated, find_target
from cgate.export import reference
from cgate.export.emit_tflite import unit_file
from cgate.export.emit_tflite_network import NETWORK_FILE
from cgate.export.golden import GoldenUnit
from cgate.host_tools.build import build
from cgate.host_tools.runner import Result, run

Int8 = NDArray[np.int8]

SCHEMA = 1
VERIFICATION = "verify.json"
FIDELITY = "fidelity.json"  # what `cgate fidelity` writes
ROUTES = ("tflite", "network", "host", "qemu")
EXTRA_ROUTES = ("litert",)  # only when asked for: a second opinion on what "tflite" says
PATTERNS = ("learned", "open")  # "open" runs every unit on every image
CHUNK = 100  # images at a time: bounds the memory for all intermediate results
SHOWN = 5  # differing values that a report shows


@dataclass(frozen=True)
class UnitOutput:
    """What one unit left: which of n images ran it, and the output of those, (m, size) int8.

    A gate's own decisions, (m,) bool, are those before anything forces them.
    """

    images: NDArray[np.int64]
    values: Int8
    decisions: NDArray[np.bool_] | None = None


Outputs = Mapping[int, UnitOutput]
"""Unit index -> what it left. A unit that ran on no image may be missing."""


class Route(Protocol):
    """A way to run the network, other than the reference."""

    tool: str
    forces: bool  # whether it can run with gates other than "learned"

    def __call__(self, images: Int8, gates: str) -> Outputs:
        """Run (n, H, W, C) int8 inputs with gates "learned", "open" or "shut"."""

    def seen(self, outputs: Outputs) -> Outputs:
        """The part of all units' outputs that this route shows."""


@dataclass(frozen=True)
class Difference:
    """The first unit in which a route differs from the reference.

    Args:
        gates: the gate pattern of the run.
        image: index of the first image that differs.
        why: "values" of the unit's output; "decision" of the gate, its logit being equal; or
            "ran": the unit ran on one side only.
        count: differing int8 values, decisions or images in this unit.
        first: (position in the output, expected, found) of the first few.
    """

    route: str
    gates: str
    unit: str
    image: int
    why: str
    count: int
    first: tuple[tuple[int, int, int], ...]

    def lines(self) -> list[str]:
        """For people."""
        place = f"{self.route}: first difference in unit {self.unit}, image {self.image}, gates "
        if self.why == "ran":
            return [place + f"{self.gates}: the unit ran on one side only (a gate differs)"]
        if self.why == "decision":
            return [place + f"{self.gates}: {self.count} decisions differ, the logits are equal"]
        return [
            place + f"{self.gates}: {self.count} values differ",
            *(
                f"  [{position}] reference {expected}, {self.route} {found}"
                for position, expected, found in self.first
            ),
        ]


@dataclass(frozen=True)
class Comparison:
    """One route against the reference.

    Args:
        tool: what ran it, with its version.
        values: int8 values compared, over all units and patterns.
        decisions: gate decisions compared.
        differing: values and decisions that differ.
        difference: the first one, or None.
    """

    route: str
    tool: str
    values: int
    decisions: int
    differing: int
    difference: Difference | None


@dataclass(frozen=True)
class Verification:
    """Result of `verify`; `images` were compared under each of `patterns`."""

    plan_sha256: str
    network: str
    target: str
    data: str
    images: int
    patterns: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def equal(self) -> bool:
        """Whether no route differs anywhere."""
        return all(each.differing == 0 for each in self.comparisons)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"schema": SCHEMA, "equal": self.equal, **asdict(self)}

    def lines(self) -> list[str]:
        """For people: a line per route, the first difference of each, the verdict last."""
        lines = [
            f"{self.network} on {self.target}: {self.images} images of {self.data}, "
            f"gates {' and '.join(self.patterns)}"
        ]
        for each in self.comparisons:
            lines.append(
                f"  {each.route:<7} {each.values:>12,} int8 values, {each.decisions:>7,} gate "
                f"decisions: {each.differing} differ   ({each.tool})"
            )
            if each.difference is not None:
                lines += [f"  {line}" for line in each.difference.lines()]
        return [*lines, "EQUAL" if self.equal else "DIFFERENT"]


def _golden(path: Path, package: str = "tflite-runtime") -> GoldenUnit:
    """The interpreter of a bundle's .tflite file; CgateError if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CgateError(
            f"the bundle's TFLite file cannot be read: {path}: {error.strerror}",
            "export the checkpoint again",
        ) from error
    try:
        return GoldenUnit(content, package)
    except (ValueError, RuntimeError) as error:
        raise CgateError(
            f"{path} is no TFLite file that the interpreter accepts: {error}",
            "export the checkpoint again",
        ) from error


def _golden_tool(package: str = "tflite-runtime") -> str:
    return f"{package} {version(package)} BUILTIN_REF"


class TfliteRoute:
    """The unit files of a bundle, chained, under BUILTIN_REF of a package of `golden`."""

    forces = True

    def __init__(self, bundle: Bundle, package: str = "tflite-runtime") -> None:
        self._plan = bundle.plan
        self._units = {
            unit.index: _golden(bundle.folder / unit_file(unit), package)
            for unit in bundle.plan.units
        }
        self.tool = _golden_tool(package)

    def seen(self, outputs: Outputs) -> Outputs:
        """See Route."""
        return outputs

    def __call__(self, images: Int8, gates: str) -> Outputs:
        """See Route."""
        return {
            step.unit.index: UnitOutput(
                step.images, step.output.reshape(len(step.images), -1), step.decision
            )
            for step in reference.walk(self._plan, images, gates, self._run_unit)
        }

    def _run_unit(
        self, unit: Unit, inputs: Mapping[str, Int8]
    ) -> tuple[Int8, NDArray[np.bool_] | None]:
        """CgateError if the unit's file is not of this unit."""
        arrays = [inputs[name] for name in unit.inputs]
        images = len(arrays[0])
        sizes = [images * self._plan.tensor(unit.output).size]
        if unit in self._plan.gates:
            sizes.append(images)
        try:
            results = self._units[unit.index](arrays)
            found = [each.size for each in results]
            if found != sizes:
                raise ValueError(f"its outputs have {found} values instead of {sizes}")
        except (ValueError, RuntimeError) as error:
            raise CgateError(
                f"{unit_file(unit)} does not hold the plan's unit {unit.name}: {error}",
                "export the checkpoint again",
            ) from error
        output, *decision = results
        return output, decision[0].reshape(-1) if decision else None


class NetworkRoute:
    """The one .tflite of the whole network under BUILTIN_REF: TFLite takes the branches itself.

    It shows the answer, under the last unit's index, and the decisions that were reached.
    """

    forces = False

    def __init__(self, bundle: Bundle) -> None:
        self._plan = bundle.plan
        self._network = _golden(bundle.folder / NETWORK_FILE)
        imported = isinstance(bundle.plan.network, ImportedNetwork)
        self.tool = f"{_golden_tool()}, {'the imported file' if imported else 'one file with IF'}"

    def __call__(self, images: Int8, gates: str) -> Outputs:
        """See Route."""
        plan = self._plan
        try:
            logits, *opened = self._network([images])
            sizes = [each.size for each in (logits, *opened)]
            wanted = [plan.tensor(plan.output).size, *[1] * len(plan.gates)]
            if sizes != [len(images) * size for size in wanted]:
                raise ValueError(f"its outputs have {sizes} values")
        except (ValueError, RuntimeError) as error:
            raise CgateError(
                f"{NETWORK_FILE} does not hold the plan's network: {error}",
                "export the checkpoint again",
            ) from error
        decisions = np.zeros((len(images), len(plan.gates)), bool)
        for place, each in enumerate(opened):
            decisions[:, place] = each.reshape(-1)
        ran = plan.ran(decisions)
        reached = [np.flatnonzero(ran[:, unit.index]) for unit in plan.gates]
        return self._shown(
            logits.reshape(len(images), -1),
            [(rows, decisions[rows, place]) for place, rows in enumerate(reached)],
        )

    def seen(self, outputs: Outputs) -> Outputs:
        """See Route."""
        plan = self._plan
        everything = outputs[plan.units[0].index].images  # no gate stands before the first unit
        logits = np.zeros((len(everything), plan.tensor(plan.output).size), np.int8)
        for unit in (*plan.exits, plan.units[-1]):
            if unit.index in outputs:  # those that went on are written over, as on the device
                logits[outputs[unit.index].images] = outputs[unit.index].values
        decided = []
        for unit in plan.gates:
            gate = outputs.get(unit.index)
            if gate is None or gate.decisions is None:  # every image left before
                decided.append((everything[:0], np.zeros(0, bool)))
            else:
                decided.append((gate.images, gate.decisions))
        return self._shown(logits, decided)

    def _shown(
        self, logits: Int8, decided: Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]]
    ) -> Outputs:
        """The answers and, per gate, (images that reached it, decisions) in the form of Outputs."""
        last = self._plan.units[-1].index
        return {
            last: UnitOutput(np.arange(len(logits)), logits),
            **{
                unit.index: UnitOutput(rows, np.zeros((len(rows), 0), np.int8), decisions)
                for unit, (rows, decisions) in zip(self._plan.gates, decided, strict=True)
            },
        }


class CompiledRoute:
    """The generated C, on the host or under QEMU."""

    forces = True

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        on: str,
        progress: Progress,
        cmsis_nn: Path | None = None,
    ) -> None:
        self._plan = bundle.plan
        self._progress = progress
        target = emulated(target) if on == "qemu" else target
        self._build = build(bundle.folder, target, on=on, cmsis_nn=cmsis_nn, progress=progress)
        self.tool = f"QEMU {target.qemu_machine}" if on == "qemu" else "host C compiler"

    def seen(self, outputs: Outputs) -> Outputs:
        """See Route."""
        return outputs

    def __call__(self, images: Int8, gates: str) -> Outputs:
        """See Route."""
        results = run(self._build, images, gates=gates, show=True, progress=self._progress)
        places = {unit.index: place for place, unit in enumerate(self._plan.gates)}
        outputs: dict[int, UnitOutput] = {}
        for unit in self._plan.units:
            rows = _rows(results, unit)
            if len(rows):
                shown = np.stack([_shown(results[row], unit) for row in rows])
                place = places.get(unit.index)
                decided = None
                if place is not None:
                    decided = np.array([results[row].decisions[place] for row in rows], bool)
                outputs[unit.index] = UnitOutput(rows, shown, decided)
        return outputs


def _rows(results: Sequence[Result], unit: Unit) -> NDArray[np.int64]:
    rows = [row for row, result in enumerate(results) if unit.index in (result.outputs or {})]
    return np.array(rows, np.int64)


def _shown(result: Result, unit: Unit) -> Int8:
    assert result.outputs is not None
    return result.outputs[unit.index]


def _reference(bundle: Bundle, images: Int8, gates: str) -> dict[int, UnitOutput]:
    return {
        step.unit.index: UnitOutput(
            step.images, step.output.reshape(len(step.images), -1), step.decision
        )
        for step in reference.trace(bundle.plan, bundle.weights, images, gates)
    }


class _Tally:
    """Adds up one route's comparisons and keeps the first difference."""

    def __init__(self, route: str) -> None:
        self.route = route
        self.values = self.decisions = self.differing = 0
        self.difference: Difference | None = None

    def compare(
        self, bundle: Bundle, expected: Outputs, found: Outputs, gates: str, start: int
    ) -> None:
        """Compare one chunk whose first image has index `start`."""
        nothing = UnitOutput(np.zeros(0, np.int64), np.zeros((0, 0), np.int8))
        for unit in bundle.plan.units:
            want = expected.get(unit.index, nothing)
            got = found.get(unit.index, nothing)
            self.values += want.values.size
            missing = np.setxor1d(want.images, got.images)
            if len(missing):
                self.differing += len(missing)
                self._first(Difference(
                    self.route, gates, unit.name, start + int(missing[0]), "ran", len(missing), ()
                ))  # fmt: skip
                continue
            differs = want.values != got.values
            count = int(np.count_nonzero(differs))
            if count:
                self.differing += count
                row = int(np.flatnonzero(differs.any(axis=1))[0])
                places = np.flatnonzero(differs[row])[:SHOWN]
                first = tuple(
                    (int(place), int(want.values[row, place]), int(got.values[row, place]))
                    for place in places
                )
                image = start + int(want.images[row])
                self._first(Difference(self.route, gates, unit.name, image, "values", count, first))
            if want.decisions is not None and got.decisions is not None:
                self.decisions += len(want.images)
                flips = np.flatnonzero(want.decisions != got.decisions)
                self.differing += len(flips)
                if len(flips):
                    image = start + int(want.images[flips[0]])
                    self._first(Difference(
                        self.route, gates, unit.name, image, "decision", len(flips), ()
                    ))  # fmt: skip

    def _first(self, difference: Difference) -> None:
        self.difference = self.difference or difference


def verify(
    folder: Path,
    images: NDArray[np.uint8],
    *,
    data: str,
    target: Target | None = None,
    on: Sequence[str] = ROUTES,
    patterns: Sequence[str] = PATTERNS,
    cmsis_nn: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare every route with the reference, per unit and end to end.

    Args:
        folder: the bundle.
        images: uint8 (n, H, W, C) of the network's shape.
        data: name of the data set, for the report.
        target: None takes the bundle's.
        on: some of ROUTES and EXTRA_ROUTES.
        patterns: gate patterns, keys of reference.FORCE.
        cmsis_nn: as of `build`.

    Raises:
        CgateError: the bundle is corrupt, a tool is missing, or a target fails.
    """
    progress = progress or Silent()
    bundle = load_bundle(folder)
    target = target or find_target(bundle.plan.target)
    inputs = reference.to_input(images)
    if not bundle.plan.gates:
        patterns = patterns[:1]  # nothing to force: all patterns are one
    routes: dict[str, Route] = {}
    for name in on:
        if name == "tflite":
            routes[name] = TfliteRoute(bundle)
        elif name == "litert":
            routes[name] = TfliteRoute(bundle, "ai-edge-litert")
        elif name == "network":
            routes[name] = NetworkRoute(bundle)
        else:
            routes[name] = CompiledRoute(bundle, target, name, Silent(), cmsis_nn)
    tallies = {name: _Tally(name) for name in routes}
    work = {
        gates: [name for name, route in routes.items() if route.forces or gates == "learned"]
        for gates in patterns
    }
    progress.start("verify", len(inputs) * sum(len(names) for names in work.values()))
    for gates, names in work.items():
        for start in range(0, len(inputs), CHUNK):
            chunk = inputs[start : start + CHUNK]
            expected = _reference(bundle, chunk, gates)
            for name in names:
                wanted, found = routes[name].seen(expected), routes[name](chunk, gates)
                tallies[name].compare(bundle, wanted, found, gates, start)
                progress.advance(len(chunk), f"{name}, gates {gates}")
    comparisons = tuple(
        Comparison(
            name,
            routes[name].tool,
            tally.values,
            tally.decisions,
            tally.differing,
            tally.difference,
        )
        for name, tally in tallies.items()
    )
    return Verification(
        bundle.sha256,
        bundle.plan.network.name,
        target.name,
        data,
        len(inputs),
        tuple(patterns),
        comparisons,
    )

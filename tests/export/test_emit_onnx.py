"""ONNX: the float network of torch, per unit and whole, and branches really not taken."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cgate.core.checkpoint import Checkpoint
from cgate.core.errors import EXIT_TOOL_MISSING, CgateError
from cgate.core.network import Network
from cgate.core.plan import Conv2d, DepthwiseConv2d, Plan, Unit
from cgate.core.targets import find_target
from cgate.export.emit_onnx import emit_onnx, onnx_file
from cgate.export.lower import lower
from synthetic import SHAPES, random_images, small_network, write_checkpoint

torch = pytest.importorskip("torch", reason='torch is missing: pip install "cgate[train]"')
onnx = pytest.importorskip("onnx", reason='onnx is missing: pip install "cgate[onnx]"')
ort = pytest.importorskip("onnxruntime", reason='missing: pip install "cgate[onnx]"')

NETWORKS = {
    "gates": small_network(shape=(12, 12, 3), gate_downsampling=True),
    "exits": small_network(exits=("s1b0", "s2b1")),
    "statistics": small_network(kind="cir-predicted", exits=("s2b0",)),
    "anchors": small_network(shape=(13, 9, 3), kind="anchor"),
    "no branch": small_network(kind="static"),
    **SHAPES,
}
IMAGES = 40
PER_UNIT, WHOLE = 1e-5, 1e-4  # largest difference to torch, relative to the largest value above 1
NEAR = 1e-4  # a logit or margin as close to its threshold may be decided either way

Float = NDArray[np.float32]


class Case:
    """A network in torch and in ONNX, and what torch makes of some images.

    Args (of the attributes):
        values: every tensor with all gates open, by plan name.
        opened: decisions of the gates by unit name, in torch, of the learned network.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        from cgate.train.gates import CUT, all_open, learned
        from cgate.train.ranges import load_model

        self.checkpoint: Checkpoint = write_checkpoint(folder, network, seed=3)
        self.plan: Plan = lower(self.checkpoint, find_target("cortex-m4"))[0]
        self.files = emit_onnx(self.plan, self.checkpoint)
        self.values: dict[str, Float] = {}
        self.learned: dict[str, Float] = {}
        model, _ = load_model(folder)
        model.eval()
        pixels = torch.from_numpy(random_images(network, IMAGES, 9))
        with torch.inference_mode():
            # Static gates are constants of the plan, which has no unit for a body never run.
            forced = all_open if self.plan.gates else learned
            for policy, values in ((forced, self.values), (learned, self.learned)):

                def observe(name: str, value: Any, ran: Any, values: Any = values) -> None:
                    values[name] = value.numpy()

                output = model(pixels, policy, observe)
                for block, score in output.scores.items():
                    values[f"{block}.gate.logit"] = score.logit.numpy()[:, None]
        for unit in self.plan.units:
            if unit.role == "pool" or unit.output.endswith(".skip"):
                self.values[unit.output] = self.between(unit)
        self.cut = CUT

    def between(self, unit: Unit) -> Float:
        """What a unit leaves that has no name in torch: pooling, or a block without its body."""
        x = torch.from_numpy(self.values[unit.inputs[0]])
        blocks = {block.name: block for block in self.checkpoint.network.blocks}
        block = blocks[unit.block] if unit.block else None
        if unit.role == "pool":
            pool = block.pool if block else self.checkpoint.network.stem_pool
            assert pool is not None
            kind = torch.max_pool2d if pool.kind == "max" else torch.nn.functional.avg_pool2d
            y = kind(x, pool.size, pool.stride, pool.padding)
        else:
            assert block is not None
            y = torch.relu(x) if block.relu else x
        result: Float = y.numpy()
        return result

    def decision(self, unit: Unit, values: dict[str, Float]) -> tuple[NDArray[np.bool_], Float]:
        """Open or not, and how far from the threshold, by the definition."""
        answer = values[unit.output].reshape(IMAGES, -1)
        if unit.role == "gate":
            return answer[:, 0] > self.cut, abs(answer[:, 0] - self.cut)
        ordered = np.sort(answer, axis=1)
        margins = ordered[:, -1] - ordered[:, -2]
        exits = {each.block: each.margin for each in self.checkpoint.network.exits}
        assert unit.block is not None and exits[unit.block] is not None
        return margins <= exits[unit.block], abs(margins - exits[unit.block])


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(NETWORKS[request.param], tmp_path_factory.mktemp("checkpoint"))


def session(content: bytes, profile: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
        # Unfused, so that nodes keep their names.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def test_all_files_are_valid(case: Case) -> None:
    for content in case.files.values():
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


def test_every_unit_computes_what_torch_computes(case: Case) -> None:
    for unit in case.plan.units:
        inputs = {name: case.values[name] for name in unit.inputs}
        found, *opened = session(case.files[onnx_file(unit)]).run(None, inputs)
        expected = case.values[unit.output].reshape(found.shape)
        bound = PER_UNIT * max(1.0, float(abs(expected).max()))
        assert abs(found - expected).max() <= bound, unit.name
        assert len(opened) == (unit in case.plan.gates)
        if opened:
            decisions, distance = case.decision(unit, case.values)
            clear = distance > NEAR
            np.testing.assert_array_equal(opened[0][clear, 0], decisions[clear])


def runs(case: Case) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Of the learned network in torch: decisions, which units run, whose decisions are clear."""
    count = len(case.plan.gates)
    opened, clear = np.zeros((IMAGES, count), bool), np.ones(IMAGES, bool)
    reached = np.ones(IMAGES, bool)
    for place, unit in enumerate(case.plan.gates):
        decisions, distance = case.decision(unit, case.learned)
        opened[:, place] = decisions & reached
        clear &= (distance > NEAR) | ~reached
        if unit.role == "exit":
            reached &= decisions
    return opened, case.plan.ran(opened), clear


def test_the_whole_network_answers_as_torch_does(case: Case) -> None:
    opened, ran, clear = runs(case)
    assert clear.sum() > IMAGES // 2
    run = session(case.files["model.onnx"]).run
    found = [run(None, {"input": case.learned["input"][i : i + 1]}) for i in range(IMAGES)]
    logits = np.concatenate([each[0] for each in found])
    expected = case.learned[case.plan.output].copy()
    for unit in reversed(case.plan.exits):
        left = ran[:, unit.index] & ~opened[:, case.plan.gates.index(unit)]
        expected[left] = case.learned[unit.output][left]
    bound = WHOLE * max(1.0, float(abs(expected).max()))
    assert abs(logits - expected)[clear].max() <= bound
    for place in range(len(case.plan.gates)):
        decisions = np.array([bool(each[1 + place]) for each in found])
        np.testing.assert_array_equal(decisions[clear], opened[clear, place])
    if case.plan.gates:
        assert opened.any() and not opened.all()


def test_a_body_is_executed_only_where_its_gate_is_open(case: Case, tmp_path: Path) -> None:
    """Counted in onnxruntime's own profile: executions of each node."""
    _, ran, clear = runs(case)
    chosen = np.flatnonzero(clear)[:20]
    profiled = session(case.files["model.onnx"], tmp_path / "profile")
    for i in chosen:
        profiled.run(None, {"input": case.learned["input"][i : i + 1]})
    events = json.loads(Path(profiled.end_profiling()).read_text())
    executed = Counter(
        event["name"].removesuffix("_kernel_time") for event in events if event["cat"] == "Node"
    )
    known = 0
    for unit in case.plan.units:
        if unit.role != "body":
            continue
        times = int(ran[chosen, unit.index].sum())
        known += unit.condition is None or 0 < times < len(chosen)
        for op in unit.ops:
            if isinstance(op, Conv2d | DepthwiseConv2d):
                name = f"Conv {op.weights.removesuffix('.weights')}"
                nodes = sum(number for node, number in executed.items() if node.startswith(name))
                assert nodes == times, name
    assert known > 1
    assert sum(number for node, number in executed.items() if "Conv stem" in node) == len(chosen)


def test_files_say_what_they_are(case: Case) -> None:
    model = onnx.load_from_string(case.files["model.onnx"])
    network = case.checkpoint.network
    assert f"(pixel - {network.input_zero}) / {network.input_divisor}" in model.doc_string
    names = [value.name for value in model.graph.output]
    assert names == ["logits", *(f"{gate.name}.open" for gate in case.plan.gates)]


def test_without_the_package_the_error_says_how_to_get_it(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CgateError, match="onnx is not installed") as caught:
        emit_onnx(case.plan, case.checkpoint)
    assert caught.value.code == EXIT_TOOL_MISSING
    assert "cgate[onnx]" in caught.value.hint

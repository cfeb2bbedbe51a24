"""ONNX: the float network of torch, per unit and whole, and branches really not taken."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cgate.core.errors import EXIT_TOOL_MISSING, CgateError
from cgate.core.plan import Conv2d, DepthwiseConv2d
from cgate.export.emit_onnx import emit_onnx
from synthetic import SHAPES, random_images, small_network, write_checkpoint

pytest.importorskip("torch", reason='torch is missing: pip install "cgate[train]"')
onnx = pytest.importorskip("onnx", reason='onnx is missing: pip install "cgate[onnx]"')
pytest.importorskip("onnxruntime", reason='onnxruntime is missing: pip install "cgate[onnx]"')

from float_network import FloatNetwork, session  # noqa: E402

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


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FloatNetwork:
    network, folder = NETWORKS[request.param], tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, network, seed=3)
    return FloatNetwork(folder, random_images(network, IMAGES, 9))


def test_all_files_are_valid(case: FloatNetwork) -> None:
    for content in case.files.values():
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


def test_every_unit_computes_what_torch_computes(case: FloatNetwork) -> None:
    for unit in case.plan.units:
        difference, decisions = case.compare_unit(unit)
        assert difference <= PER_UNIT and decisions == 0, unit.name


def test_the_whole_network_answers_as_torch_does(case: FloatNetwork) -> None:
    assert case.clear.sum() > IMAGES // 2
    difference, decisions = case.compare_network()
    assert difference <= WHOLE and decisions == 0
    if case.plan.gates:
        assert case.opened.any() and not case.opened.all()


def test_a_body_is_executed_only_where_its_gate_is_open(case: FloatNetwork, tmp_path: Path) -> None:
    """Counted in onnxruntime's own profile: executions of each node."""
    chosen = np.flatnonzero(case.clear)[:20]
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
        times = int(case.ran[chosen, unit.index].sum())
        known += unit.condition is None or 0 < times < len(chosen)
        for op in unit.ops:
            if isinstance(op, Conv2d | DepthwiseConv2d):
                name = f"Conv {op.weights.removesuffix('.weights')}"
                nodes = sum(number for node, number in executed.items() if node.startswith(name))
                assert nodes == times, name
    assert known > 1
    assert sum(number for node, number in executed.items() if "Conv stem" in node) == len(chosen)


def test_files_say_what_they_are(case: FloatNetwork) -> None:
    model = onnx.load_from_string(case.files["model.onnx"])
    network = case.checkpoint.network
    assert f"(pixel - {network.input_zero}) / {network.input_divisor}" in model.doc_string
    names = [value.name for value in model.graph.output]
    assert names == ["logits", *(f"{gate.name}.open" for gate in case.plan.gates)]


def test_without_the_package_the_error_says_how_to_get_it(
    case: FloatNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CgateError, match="onnx is not installed") as caught:
        emit_onnx(case.plan, case.checkpoint)
    assert caught.value.code == EXIT_TOOL_MISSING
    assert "cgate[onnx]" in caught.value.hint

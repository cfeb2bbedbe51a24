"""The threshold's sweep: every point is what the integer reference says, on every route."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cgate.core.checkpoint import Checkpoint, load_checkpoint
from cgate.core.errors import CgateError
from cgate.core.plan import load_bundle
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.export.lower import lower
from cgate.host_tools.cli import main
from cgate.host_tools.inputs import Inputs
from cgate.host_tools.threshold_sweep import THRESHOLDS, sweep, write_sweep
from cgate.host_tools.verify import verify
from synthetic import random_images, small_network, write_checkpoint
from tiny import needs_host

COUNT = 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("sweep") / "checkpoint"
    return write_checkpoint(folder, small_network(kind="cir-predicted"), seed=4)


def inputs(checkpoint: Checkpoint) -> Inputs:
    images = random_images(checkpoint.network, COUNT, 9)
    labels = np.random.default_rng(0).integers(0, 10, COUNT)
    return Inputs("random", "validation", np.arange(COUNT), images, labels, COUNT)


def test_points_are_the_references(checkpoint: Checkpoint, tmp_path: Path) -> None:
    needs_host()
    images = inputs(checkpoint)
    value = sweep(checkpoint.folder, images, thresholds=(0.6, 0.3, 0.45), jobs=1)
    assert [point["threshold"] for point in value["points"]] == [0.3, 0.45, 0.6]
    for point in value["points"]:
        plan, weights = lower(
            checkpoint, find_target("cortex-m3"), threshold=point["threshold"], kernels="ref"
        )
        result = reference.run(plan, weights, reference.to_input(images.images))
        assert point["correct"] == (result.classes == images.labels).sum()
        assert point["executed_macs"] == plan.executed_macs(result.ran).mean()
        assert point["cut"] == plan.gates[0].threshold
        for i, unit in enumerate(plan.gates):
            assert point["open"][unit.block] == result.decisions[:, i].mean()
    macs = [point["executed_macs"] for point in value["points"]]
    assert macs[0] > macs[2]
    read, table = write_sweep(tmp_path, value)
    assert json.loads(read.read_text()) == value
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["threshold"]) for row in rows] == [0.3, 0.45, 0.6]
    assert float(rows[1]["open_s2b1"]) == pytest.approx(value["points"][1]["open"]["s2b1"])


def test_decisions_are_equal_on_every_route_at_every_threshold(tmp_path: Path) -> None:
    needs_host()
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    made = write_checkpoint(tmp_path / "checkpoint", small_network(width=4), seed=4)
    images = random_images(made.network, 24, 3)
    opened = []
    for threshold in THRESHOLDS:
        folder = tmp_path / "bundle"
        export_checkpoint(made.folder, folder, find_target("cortex-m3"), threshold=threshold)
        result = verify(folder, images, data="random", on=("tflite", "host"), patterns=("learned",))
        assert result.equal, result.lines()
        assert all(each.decisions == 24 * 2 for each in result.comparisons)
        bundle = load_bundle(folder)
        numbers = reference.run(bundle.plan, bundle.weights, reference.to_input(images))
        opened.append(int(numbers.decisions[:, 0].sum()))
    # The first gate sees the same map at every threshold.
    assert opened == sorted(opened, reverse=True) and opened[0] > opened[-1]


def test_networks_without_a_threshold_say_so(tmp_path: Path) -> None:
    needs_host()
    static = write_checkpoint(tmp_path / "static", small_network(kind="static"), seed=4)
    with pytest.raises(CgateError, match="no threshold to sweep"):
        sweep(static.folder, inputs(static), thresholds=(0.45,), jobs=1)
    anchor = write_checkpoint(tmp_path / "anchor", small_network(kind="anchor"), seed=4)
    with pytest.raises(CgateError, match="no threshold to move"):
        sweep(anchor.folder, inputs(anchor), thresholds=(0.5,), jobs=1)


def test_command(
    digits_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_host()
    out = tmp_path / "bundle"
    words = ["export", str(digits_checkpoint), "--out", str(out), "--threshold-sweep"]
    assert main([*words, "--thresholds", "0.4,0.5", "--limit", "30", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    curve = json.loads((out / "threshold_sweep.json").read_text())
    assert data["threshold_sweep"] == curve
    assert (curve["split"], curve["images"], len(curve["points"])) == ("validation", 30, 2)
    assert load_checkpoint(digits_checkpoint).source_sha256 == load_bundle(out).plan.source_sha256
    for wrong in ("0.4,x", "0,0.5", "1"):
        assert main([*words, "--thresholds", wrong]) == 2
    assert main([*words[:-1], "--thresholds", "0.5"]) == 2


def test_a_network_beyond_half_a_megabyte(tmp_path: Path) -> None:
    """The curve needs a program of this computer only; no board's memory limits it."""
    needs_host()
    wide = small_network(width=40)
    big = write_checkpoint(tmp_path / "checkpoint", wide, images=4)
    assert sum(weight.size for weight in load_checkpoint(big.folder).weights.values()) > 1 << 19
    images = random_images(wide, 1, 0)
    one = Inputs("random", "validation", np.arange(1), images, np.zeros(1, np.int64), 1)
    value = sweep(big.folder, one, thresholds=(0.45,), jobs=1)
    assert len(value["points"]) == 1

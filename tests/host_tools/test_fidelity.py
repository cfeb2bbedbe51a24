"""`fidelity` against sums done by hand: numpy's float network and the integer reference."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.core.errors import CgateError
from cgate.core.plan import load_bundle
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.export.fold import fold
from cgate.host_tools.fidelity import Fidelity, measure
from cgate.host_tools.inputs import Inputs
from cgate.train.exits import places
from cgate.train.gates import learned
from cgate.train.ranges import load_model
from synthetic import float_tensors, random_images, small_network, write_checkpoint
from tiny import needs_host

COUNT = 130  # more than one chunk


def export(folder: Path, **network: object) -> tuple[Path, Inputs]:
    checkpoint = write_checkpoint(folder / "checkpoint", small_network(**network), seed=1)  # type: ignore[arg-type]
    export_checkpoint(checkpoint.folder, folder / "bundle", find_target("cortex-m3"))
    images = random_images(checkpoint.network, COUNT, 5)
    labels = np.random.default_rng(0).integers(0, 10, COUNT)
    return folder, Inputs("random", "test", np.arange(COUNT), images, labels, COUNT)


def by_name(found: Fidelity) -> dict[str, tuple[int, int]]:
    return {gate.name: (gate.reached, gate.changed) for gate in found.gates}


@pytest.mark.parametrize("kind", ["controller", "cir-predicted", "anchor"])
def test_counts_are_those_of_both_networks(kind: str, tmp_path: Path) -> None:
    needs_host()
    folder, inputs = export(tmp_path, kind=kind, exits=("s2b0",))
    found = measure(folder / "checkpoint", folder / "bundle", inputs)
    bundle = load_bundle(folder / "bundle")
    integers = reference.run(bundle.plan, bundle.weights, reference.to_input(inputs.images))
    model, _ = load_model(folder / "checkpoint")
    with torch.inference_mode():
        output = model(torch.from_numpy(inputs.images), learned)
    left = places(model.network, torch.stack(list(output.exits.values()))) == 0
    logits = torch.where(left[:, None], output.exits["s2b0"], output.logits)
    classes = logits.argmax(1).numpy()
    assert found.images == COUNT and found.same_source and found.split == "test"
    assert found.float_correct == (classes == inputs.labels).sum()
    assert found.int8_correct == (integers.classes == inputs.labels).sum()
    assert found.same_class == (integers.classes == classes).sum()
    for i, unit in enumerate(bundle.plan.gates):
        both = integers.ran[:, unit.index]
        if unit.role == "gate":
            decided = (output.gates[unit.block or ""] > 0).numpy()
            if unit.index > bundle.plan.exits[0].index:
                both = both & ~left.numpy()
        else:
            decided = ~left.numpy()
        changed = (decided != integers.decisions[:, i]) & both
        assert by_name(found)[unit.name] == (both.sum(), changed.sum())
    assert sum(reached for reached, _ in by_name(found).values()) > 0
    assert json.loads(json.dumps(found.to_json()))["accuracy"]["int8"] == (
        found.int8_correct / COUNT
    )


def test_noise_is_that_of_the_units_outputs(tmp_path: Path) -> None:
    needs_host()
    checkpoint = write_checkpoint(tmp_path / "checkpoint", small_network(), seed=1)
    folder = tmp_path / "bundle"
    # At this threshold every gate is open, as in the float tensors of the oracle.
    export_checkpoint(checkpoint.folder, folder, find_target("cortex-m3"), threshold=0.02)
    images = random_images(checkpoint.network, 20, 5)
    inputs = Inputs("random", "validation", np.arange(20), images, np.zeros(20, np.int64), 20)
    found = measure(checkpoint.folder, folder, inputs)
    bundle = load_bundle(folder)
    expected = float_tensors(checkpoint.network, fold(checkpoint), images)
    steps = {
        step.unit.name: step
        for step in reference.trace(bundle.plan, bundle.weights, reference.to_input(images))
    }
    assert len(found.units) == len(bundle.plan.units)
    for unit in found.units:
        step = steps[unit.name]
        assert unit.images == 20
        tensor = bundle.plan.tensor(step.unit.output)
        values = (step.output.astype(np.float64) - tensor.zero_point) * tensor.scale
        wanted = expected[tensor.name]
        ratio = float((wanted**2).sum() / ((values - wanted) ** 2).sum())
        assert unit.sqnr_db == pytest.approx(10 * math.log10(ratio), abs=0.01)
    assert "int8" in "\n".join(found.lines())


def test_another_network_is_refused(tmp_path: Path) -> None:
    folder, inputs = export(tmp_path)
    other = write_checkpoint(tmp_path / "other", small_network(width=4))
    with pytest.raises(CgateError, match="not of the same network"):
        measure(other.folder, folder / "bundle", inputs)

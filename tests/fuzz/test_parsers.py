"""Every parser of files, given damaged ones: success or a CgateError, nothing else."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS, load_checkpoint
from cgate.core.plan import PLAN, load_bundle, plan_from_json
from cgate.core.plan import WEIGHTS as ARRAYS
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.export.emit_c import emit_c
from cgate.export.import_tflite import import_tflite
from cgate.export.reference import run
from fuzzing import CORPUS, attack, damaged, rearranged, survives
from synthetic import small_network, write_checkpoint
from tflite_files import random_net

M4 = find_target("cortex-m4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, small_network(width=4, exits=("s1b0",)), images=4)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    export_checkpoint(checkpoint, folder, M4)
    return folder


def imported(content: bytes) -> object:
    return import_tflite(content, "damaged.tflite", M4, network="damaged")


def test_tflite() -> None:
    samples = [random_net(seed) for seed in range(8)]
    for sample in samples:
        assert imported(sample)
    attack(samples, damaged, imported, 400)


@pytest.mark.parametrize("path", sorted((CORPUS / "tflite").iterdir()), ids=lambda path: path.name)
def test_tflite_that_was_trouble_once(path: Path) -> None:
    survives(lambda: imported(path.read_bytes()))


def changed_json(value: Any, rng: random.Random) -> Any:
    return rearranged(copy.deepcopy(value), rng)


def test_plan_values(bundle: Path) -> None:
    value = json.loads((bundle / PLAN).read_bytes())
    assert survives(lambda: plan_from_json(value))
    attack([value], changed_json, plan_from_json, 250)


def test_plans_that_load_can_be_used(bundle: Path, tmp_path: Path) -> None:
    """What the checks let through gives C and runs: no later step has to look again."""
    (tmp_path / ARRAYS).write_bytes((bundle / ARRAYS).read_bytes())

    def used(value: Any) -> object:
        (tmp_path / PLAN).write_text(json.dumps(value))
        loaded = load_bundle(tmp_path)
        plan = loaded.plan
        emit_c(plan, loaded.weights, "00" * 32)
        return run(plan, loaded.weights, np.zeros((1, *plan.tensor(plan.input).shape), np.int8))

    value = json.loads((bundle / PLAN).read_bytes())
    assert survives(lambda: used(value))
    attack([value], changed_json, used, 250)


def file_attack(folder: Path, copy_to: Path, name: str, parse: Any, count: int) -> None:
    """Attack `parse(folder)` by damage to one file of a copy of the folder."""
    for path in folder.iterdir():
        if path.is_file():
            (copy_to / path.name).write_bytes(path.read_bytes())

    def attempt(data: bytes) -> object:
        (copy_to / name).write_bytes(data)
        return parse(copy_to)

    attack([(folder / name).read_bytes()], damaged, attempt, count)


@pytest.mark.parametrize("name", [PLAN, ARRAYS])
def test_bundle_files(name: str, bundle: Path, tmp_path: Path) -> None:
    assert survives(lambda: load_bundle(bundle))
    file_attack(bundle, tmp_path, name, load_bundle, 100)


@pytest.mark.parametrize("name", [CARD, WEIGHTS, RANGES])
def test_checkpoint_files(name: str, checkpoint: Path, tmp_path: Path) -> None:
    assert survives(lambda: load_checkpoint(checkpoint))
    file_attack(checkpoint, tmp_path, name, load_checkpoint, 150)


@pytest.mark.parametrize("name", [CARD, RANGES])
def test_checkpoint_values(name: str, checkpoint: Path, tmp_path: Path) -> None:
    for each in (CARD, WEIGHTS, RANGES):
        (tmp_path / each).write_bytes((checkpoint / each).read_bytes())

    def attempt(value: Any) -> object:
        (tmp_path / name).write_text(json.dumps(value))
        return load_checkpoint(tmp_path)

    attack([json.loads((checkpoint / name).read_bytes())], changed_json, attempt, 200)

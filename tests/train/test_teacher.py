"""Runs that begin with another checkpoint: as first weights, as a teacher."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from safetensors.numpy import load_file

from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.network import Gate
from cgate.core.progress import Silent
from cgate.train.loop import Run, train
from cgate.train.losses import TEMPERATURE, imitation
from cgate.train.recipes import Recipe


def test_imitation_is_zero_for_equal_answers_and_the_divergence_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    assert imitation(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    p, q = (
        np.exp(x) / np.exp(x).sum(1, keepdims=True)
        for x in (teacher.detach().numpy() / TEMPERATURE, student.detach().numpy() / TEMPERATURE)
    )
    expected = TEMPERATURE**2 * (p * np.log(p / q)).sum(1).mean()
    loss = imitation(student, teacher)
    assert loss.item() == pytest.approx(expected)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None and teacher.grad is None


def test_a_run_starts_from_a_checkpoint_with_gates_of_its_own(trained: Path, tiny: Recipe) -> None:
    recipe = replace(tiny, start=str(trained), gate=Gate("cir-predicted", 4))
    begun = Run(recipe, load_dataset(recipe.data)).model.state_dict()
    given = load_file(trained / "model.safetensors")
    assert all(
        np.array_equal(begun[name].numpy(), value)
        for name, value in given.items()
        if ".gate." not in name
    )
    plain = Run(replace(recipe, start=None), load_dataset(recipe.data)).model.state_dict()
    own = [name for name in begun if ".gate." in name and name not in given]
    assert own and all(torch.equal(begun[name], plain[name]) for name in own)


def test_a_teacher_moves_its_pupil_and_is_not_moved(
    trained: Path, tiny: Recipe, tmp_path: Path
) -> None:
    recipe = replace(tiny, epochs=1, limit=100)
    train(recipe, tmp_path / "alone", progress=Silent())
    recipe = replace(recipe, teacher=str(trained), teach=1.0)
    before = (trained / "model.safetensors").read_bytes()
    train(recipe, tmp_path / "taught", progress=Silent())
    assert (trained / "model.safetensors").read_bytes() == before
    alone, taught = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "taught")
    )
    assert alone != taught
    card = json.loads((tmp_path / "taught/card.json").read_text())
    assert card["recipe"]["teacher"] == str(trained) and card["recipe"]["teach"] == 1.0


def test_what_does_not_fit_is_refused(trained: Path, tiny: Recipe, tmp_path: Path) -> None:
    data = load_dataset(tiny.data)
    with pytest.raises(CgateError, match=r"cannot start this network: it has no stem"):
        Run(replace(tiny, start=str(trained), width=0.5), data)
    with pytest.raises(CgateError, match="the checkpoint's card"):
        Run(replace(tiny, teacher=str(tmp_path)), data)
    other = tmp_path / "other"
    other.mkdir()
    for path in trained.iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    card = json.loads((other / "card.json").read_text())
    card["network"]["input_divisor"] += 1
    (other / "card.json").write_text(json.dumps(card))
    with pytest.raises(CgateError, match="cannot teach this network"):
        Run(replace(tiny, teacher=str(other)), data)

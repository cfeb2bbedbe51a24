"""Two processes that train one network, against one process on the same half-batches."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from safetensors.torch import load_file
from torch.nn import functional

from cgate.core.checkpoint import load_checkpoint
from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.files import json_text
from cgate.core.network import network_macs
from cgate.train.batches import Batches
from cgate.train.evaluate import evaluate
from cgate.train.gates import relaxed
from cgate.train.loop import Run, one_cycle
from cgate.train.losses import cost_penalty, executed_share
from cgate.train.recipes import Recipe
from cgate.train.resume import epoch_generator
from cgate.train.world import World, joined

# The ranks do the same float32 operations as the single process; only the sum of two gradients
# may be rounded elsewhere, and a few steps carry that on.
TOLERANCE = 1e-5

SCRIPT = """
import json, os, sys
from pathlib import Path
from cgate.core.progress import Silent
from cgate.train.loop import train
from cgate.train.recipes import recipe_from_json

class Stop(Silent):
    def message(self, text):
        if text.startswith("epoch 1/") and sys.argv[3] == "stop":
            os._exit(9)

recipe = recipe_from_json(json.loads(sys.argv[1]))
train(recipe, Path(sys.argv[2]), progress=Stop())
"""


def launch(recipe: Recipe, out: Path, what: str) -> subprocess.CompletedProcess[str]:
    """Train with two ranks that torchrun starts; "stop" kills rank 0 after an epoch."""
    script = out.with_suffix(".py")
    script.write_text(SCRIPT)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command, str(script), json_text(recipe.to_json()), str(out), what],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def single_process(recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights after the same run by one process: two replicas, a half of each batch each."""
    dataset = load_dataset(recipe.data)
    runs = [Run(recipe, dataset) for _ in range(2)]
    replicas = [run.model for run in runs]
    optimizers = runs[0].optimizers
    macs = network_macs(runs[0].network)
    images = torch.from_numpy(dataset.train.images[: recipe.limit])
    labels = torch.from_numpy(dataset.train.labels[: recipe.limit])
    batches = Batches(
        images, labels, recipe.batch, shift=recipe.shift, flip=recipe.flip, fill=dataset.input_zero
    )
    steps, half = len(batches), recipe.batch // 2
    for epoch in range(recipe.epochs):
        order = epoch_generator(recipe.seed, epoch)
        noises = [order, epoch_generator(recipe.seed, epoch, World(1, 2))]
        for step, (x, y) in enumerate(batches.epoch(order)):
            done = (epoch * steps + step) / (recipe.epochs * steps)
            for rank, model in enumerate(replicas):
                model.train().zero_grad()
                annealed = min(1.0, done / recipe.anneal)
                fall = annealed * (recipe.temperature - recipe.temperature_end)
                policy = relaxed(recipe.temperature - fall, 1 - annealed, noises[rank])
                part = slice(rank * half, (rank + 1) * half)
                output = model(x[part], policy)
                share = executed_share(output.gates, macs)
                penalty = cost_penalty(share, recipe.tau, recipe.cost_weight, done / recipe.warmup)
                loss = functional.cross_entropy(output.logits, y[part]) + penalty
                loss.backward()  # type: ignore[no-untyped-call]
            rate = one_cycle(done + 0.5 / (recipe.epochs * steps), recipe.rise)
            pairs = zip(*(model.parameters() for model in replicas), strict=True)
            for first, second in pairs:
                assert first.grad is not None and second.grad is not None
                first.grad = (first.grad + second.grad) / 2
            for kind, peak in (("trunk", recipe.lr), ("gates", recipe.gate_lr)):
                for group in optimizers[kind].param_groups:
                    group["lr"] = peak * rate
                optimizers[kind].step()
            weights = zip(*(model.parameters() for model in replicas), strict=True)
            with torch.no_grad():
                for first, second in weights:
                    second.copy_(first)
        for first, second in zip(*(model.buffers() for model in replicas), strict=True):
            first.copy_((first + second) / 2)
            second.copy_(first)
    return dict(replicas[0].state_dict())


@pytest.mark.slow
def test_two_ranks_that_were_stopped_agree_with_one_process(tiny: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny, epochs=2, consistency=0.0)
    out = tmp_path / "run"
    assert launch(recipe, out, "stop").returncode != 0
    assert not (out / "card.json").exists()
    done = launch(recipe, out, "finish")
    assert done.returncode == 0, done.stderr
    checkpoint = load_checkpoint(out)
    assert checkpoint.card["environment"]["ranks"] == 2
    found, expected = load_file(out / "model.safetensors"), single_process(recipe)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
    # The validation images were shared out and gathered: the card counts each of them once.
    model = Run(recipe, load_dataset(recipe.data)).model
    model.load_state_dict(found)
    everything = evaluate(model, load_dataset(recipe.data).validation)
    assert checkpoint.card["accuracy"]["validation"] == everything.accuracy


def test_ranks_share_a_batch_in_order() -> None:
    pixels = torch.arange(12, dtype=torch.uint8).reshape(12, 1, 1, 1)
    parts = []
    for rank in range(3):
        world = World(rank, 3)
        batches = Batches(pixels, torch.arange(12), 6, shift=0, flip=False, fill=0, world=world)
        parts.append([labels for _, labels in batches.epoch(torch.Generator().manual_seed(4))])
    whole = Batches(pixels, torch.arange(12), 6, shift=0, flip=False, fill=0)
    expected = [labels for _, labels in whole.epoch(torch.Generator().manual_seed(4))]
    for step, labels in enumerate(expected):
        assert torch.equal(torch.cat([part[step] for part in parts]), labels)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(CgateError, match="batch of 6 cannot be shared by 4 processes"):
        Batches(
            torch.zeros(6, 1, 1, 1, dtype=torch.uint8),
            torch.zeros(6, dtype=torch.int64),
            6,
            shift=0,
            flip=False,
            fill=0,
            world=World(0, 4),
        )


def test_every_rank_draws_other_noise() -> None:
    drawn = {
        float(torch.rand(1, dtype=torch.float64, generator=epoch_generator(seed, epoch, world)))
        for seed in (0, 1)
        for epoch in (0, 1)
        for world in (World(), World(1, 3), World(2, 3))
    }
    assert len(drawn) == 12


def test_a_broken_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(CgateError, match="RANK or LOCAL_RANK is missing") as caught, joined():
        pass
    assert "torchrun" in caught.value.hint

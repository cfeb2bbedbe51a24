"""Quantisation-aware training: a short fine-tuning of a trained network on its own integers.

The float network as it was is the teacher: its answers and its gates' decisions are what int8 is
to keep. Scales stay as calibrated, so the result exports with exactly these ranges.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS, Checkpoint, load_checkpoint
from cgate.core.data import Split
from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import replaced_folder, write_bytes, write_json
from cgate.core.progress import Progress, Silent
from cgate.export.quantize import DEFAULT_RANGES
from cgate.train import integers
from cgate.train.batches import Batches
from cgate.train.card import make_card
from cgate.train.evaluate import evaluate
from cgate.train.exits import exit_loss
from cgate.train.losses import imitation
from cgate.train.models import GatedResNet, Output
from cgate.train.ranges import load_model, load_training_data
from cgate.train.recipes import Recipe, recipe_from_json
from cgate.train.resume import check_new_folder, epoch_generator

NEAR = 0.25
"""A gate's logit this far off costs half: eight int8 steps."""


@dataclass(frozen=True)
class Tuning:
    """How a network is fine-tuned.

    Args:
        epochs: passes over the training images.
        lr: of Adam at first; it falls to 0 linearly.
        batch: images per step.
        distill: share of the loss that compares answers with the float network's; the rest
            compares them with the labels.
        gates: weight of the gates' deviation from the float logits, in units of NEAR.
        ranges: how scales are chosen, one of `quantize.RANGE_CHOICES`.
        limit: train on the first so many images only; None for all.
        seed: of order and augmentation.
    """

    epochs: int = 1
    lr: float = 1e-5
    batch: int = 64
    distill: float = 1.0
    gates: float = 1.0
    ranges: str = DEFAULT_RANGES
    limit: int | None = None
    seed: int = 0


def loss(output: Output, teacher: Output, labels: Tensor, recipe: Recipe, tuning: Tuning) -> Tensor:
    """What is paid for a batch: a scalar, float32.

    Args:
        output: with the integers' values.
        teacher: of the float network, on the same images.
        labels: int64 [N].
    """
    total = (1 - tuning.distill) * functional.cross_entropy(output.logits, labels)
    total = total + tuning.distill * imitation(output.logits, teacher.logits)
    if recipe.exits is not None:
        total = total + exit_loss(output.exits, output.logits, labels, recipe.exits)
    gates = [
        # Not the square: an image whose gate turns is far off at all gates behind it.
        functional.smooth_l1_loss(score.logit, teacher.scores[block].logit, beta=NEAR) / NEAR
        for block, score in output.scores.items()
    ]
    return total + tuning.gates * torch.stack(gates).mean() if gates else total


@dataclass(frozen=True)
class Score:
    """The deployed network on a split: mean loss, accuracy, and agreement with the float gates."""

    loss: float
    accuracy: float
    agreement: float


class Fitting:
    """One fine-tuning: the model, its teacher, and the checkpoint that gives the ranges."""

    def __init__(
        self, checkpoint: Checkpoint, model: GatedResNet, recipe: Recipe, tuning: Tuning
    ) -> None:
        self.checkpoint = checkpoint
        self.model = model
        self.recipe = recipe
        self.tuning = tuning
        self.teacher = GatedResNet(model.network)
        self.teacher.load_state_dict(model.state_dict())
        # Batch statistics are folded into the integers and stay as they are.
        self.teacher.eval()
        self.model.eval()

    def outputs(self, images: Tensor) -> tuple[Output, Output]:
        """(with the integers' values, of the teacher) for uint8 images [N, H, W, C]."""
        plan, weights = integers.deploy(self.checkpoint, self.model, self.tuning.ranges)
        deployed = integers.run(plan, weights, images)
        with torch.no_grad():
            teacher = self.teacher(images)
        return integers.forward(self.model, deployed, images), teacher

    def score(self, split: Split) -> Score:
        """The deployed network on `split`, exits not taken."""
        total, correct, agreed, decided = 0.0, 0, 0, 0
        images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
        size = self.tuning.batch
        with torch.no_grad():
            for part, wanted in zip(
                torch.split(images, size), torch.split(labels, size), strict=True
            ):
                output, teacher = self.outputs(part)
                value = loss(output, teacher, wanted, self.recipe, self.tuning)
                total += float(value) * len(part)
                correct += int((output.logits.argmax(1) == wanted).sum())
                for block, gate in output.gates.items():
                    agreed += int(((gate > 0.5) == (teacher.gates[block] > 0.5)).sum())
                    decided += len(part)
        count = len(labels)
        return Score(total / count, correct / count, agreed / decided if decided else 1.0)


def fit(
    fitting: Fitting, train: Split, validation: Split, fill: int, progress: Progress
) -> tuple[Score, Score]:
    """Fine-tune, and leave the epoch whose loss on the validation images is least.

    The epoch before the first one counts too: what does not help is not kept.

    Args:
        fill: see `Batches`.

    Returns:
        The validation scores before and of what was kept.

    Raises:
        CgateError: the loss is no longer finite (code 1).
    """
    tuning, model = fitting.tuning, fitting.model
    batches = Batches(
        torch.from_numpy(train.images[: tuning.limit]),
        torch.from_numpy(train.labels[: tuning.limit]),
        tuning.batch,
        shift=fitting.recipe.shift,
        flip=fitting.recipe.flip,
        fill=fill,
    )
    if not len(batches):
        raise CgateError(
            f"a batch of {tuning.batch} is more than there are training images",
            "lower --batch or raise --limit",
        )
    optimizer = Adam(model.parameters(), tuning.lr)
    steps = tuning.epochs * len(batches)
    progress.start("fine-tune", steps)
    before = best = fitting.score(validation)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    progress.message(_line("as exported now", best))
    done = 0
    for epoch in range(tuning.epochs):
        for images, labels in batches.epoch(epoch_generator(tuning.seed, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = tuning.lr * (1 - done / steps)
            output, teacher = fitting.outputs(images)
            value = loss(output, teacher, labels, fitting.recipe, tuning)
            if not math.isfinite(value.item()):
                raise CgateError(
                    f"fine-tuning diverged: the loss is {value.item()} in step {done + 1}",
                    f"--lr below {tuning.lr:g}",
                    EXIT_CHECK_FAILED,
                )
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            progress.advance(1, f"loss {value.item():.3f}")
        found = fitting.score(validation)
        progress.message(_line(f"epoch {epoch + 1}/{tuning.epochs}", found))
        if found.loss < best.loss:
            best = found
            kept = {name: each.clone() for name, each in model.state_dict().items()}
    model.load_state_dict(kept)
    return before, best


def _line(what: str, score: Score) -> str:
    return (
        f"{what}: int8 validation accuracy {score.accuracy:.2%}, loss {score.loss:.4f}, "
        f"gates agree {score.agreement:.2%}"
    )


def qat(
    folder: Path,
    out: Path,
    tuning: Tuning,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fine-tune a checkpoint on its integers and write the result as a checkpoint.

    Args:
        folder: a checkpoint that `train` finished.
        out: a new or empty folder, or a finished checkpoint that is replaced.
        data_dir: where its data set lies, see `cgate.core.data.find_data`.

    Returns:
        The content of the new card.json, whose `qat` says how it was made and what it changed.

    Raises:
        CgateError: `folder` is no checkpoint or cannot be exported, `out` holds a run, the data
            cannot be read, or training diverged (code 1).
    """
    shown = progress or Silent()
    checkpoint = load_checkpoint(folder)
    model, card = load_model(folder)
    check_new_folder(out, folder)
    recipe = recipe_from_json(card.get("recipe"))
    dataset = load_training_data(folder, card, data_dir)
    fitting = Fitting(checkpoint, model, recipe, tuning)
    scores = fit(fitting, dataset.train, dataset.validation, dataset.input_zero, shown)
    new = make_card(model, recipe, dataset, evaluate(model, dataset.validation), shown)
    new["qat"] = {
        **asdict(tuning),
        "validation": dict(zip(("before", "after"), map(asdict, scores), strict=True)),
        "from": {"accuracy": card["accuracy"], "executed_macs": card["executed_macs"]},
    }
    ranges = (folder / RANGES).read_bytes()
    with replaced_folder(out, CARD) as made:
        arrays = {name: value.contiguous() for name, value in model.state_dict().items()}
        write_bytes(made / WEIGHTS, save(arrays))
        write_bytes(made / RANGES, ranges)
        write_json(made / CARD, new)
    return new

"""Training: from a recipe to a finished checkpoint folder."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS
from cgate.core.data import Dataset, load_dataset
from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import read_json, write_bytes, write_json
from cgate.core.network import network_macs
from cgate.core.progress import Progress, Silent
from cgate.train.batches import Batches
from cgate.train.card import make_card
from cgate.train.device import accelerated, describe, fast_dtype, pick_device
from cgate.train.epochs import collapse, epoch_line, epoch_row
from cgate.train.evaluate import (
    Evaluation,
    collect,
    score,
    set_margins,
)
from cgate.train.exits import exit_loss
from cgate.train.gates import GateOptions, GatePolicy, learned, relaxed
from cgate.train.losses import (
    bandpass,
    consistency,
    cost_penalty,
    distillation,
    executed_share,
    imitation,
)
from cgate.train.models import GatedResNet, Output
from cgate.train.ranges import measure_ranges
from cgate.train.recipes import Recipe
from cgate.train.record import Record, environment
from cgate.train.resume import (
    STATE,
    Row,
    State,
    begun_dtype,
    check_recipe,
    claim,
    epoch_generator,
    load_shared_state,
    remove_state,
    save_state,
)
from cgate.train.schedules import SCHEDULES
from cgate.train.teacher import load_teacher, start_from
from cgate.train.world import ALONE, World, joined

GATE_SCALARS = ("bias", "log_gamma", "log_temperature")
SCALAR_FACTOR = 10.0
"""Adam moves every number by the same step. A logit that hangs on one number, and not on layers
of weights that move together, needs longer ones."""

PREDICTOR_FACTOR = 5.0
"""A predictor follows a CIR that moves as long as the trunk learns."""

LOOK_EVERY = 50
"""Steps between two looks at the loss on a GPU, which has to wait for each of them."""

SMALL_STEP_MACS = 1_000_000_000
"""Forward MACs of a training step below which one thread is used."""


def one_cycle(done: float, rise: float) -> float:
    """Factor of the peak learning rate: 0 to 1 over the first `rise` of the run, then back to 0.

    Args:
        done: fraction of the run, 0..1.
    """
    return min(done / rise, (1 - done) / (1 - rise))


def _optimizers(model: GatedResNet, recipe: Recipe) -> dict[str, Optimizer]:
    gates: list[Tensor] = []
    scalars: list[Tensor] = []
    predictors: list[Tensor] = []
    plain: list[Tensor] = []
    decayed: list[Tensor] = []
    for name, value in model.named_parameters():
        _, _, of_gate = name.partition(".gate.")
        if of_gate:
            if of_gate in GATE_SCALARS:
                scalars.append(value)
            else:
                (predictors if of_gate.startswith("predict") else gates).append(value)
        else:
            (decayed if value.ndim > 1 else plain).append(value)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain},
    ]
    optimizers: dict[str, Optimizer] = {
        "trunk": SGD(groups, recipe.lr, momentum=0.9, nesterov=True)
    }
    kinds: list[dict[str, Any]] = [
        {"params": gates},
        {"params": scalars, "factor": SCALAR_FACTOR},
        {"params": predictors, "factor": PREDICTOR_FACTOR},
    ]
    learning = [each for each in kinds if each["params"]]
    if learning:
        # A gate's gradient is orders of magnitude below that of a convolution; Adam rescales it.
        optimizers["gates"] = Adam(learning, recipe.gate_lr)
    return optimizers


class Run:
    """One training run: a recipe, its data, model and optimizers.

    Args:
        world: the processes that train together; each takes its part of every batch.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, world: World = ALONE) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.world = world
        self.device = pick_device()
        self.network = recipe.network(dataset)
        self.macs = network_macs(self.network)
        self.costs = recipe.costs(self.network)
        # The caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = GatedResNet(
                self.network,
                GateOptions(recipe.gate_bias, recipe.cir_gradient),
                recipe.exits is not None and recipe.exits.detach,
            )
        if recipe.start is not None:
            start_from(self.model, Path(recipe.start))
        self.teacher: GatedResNet | None = None
        if recipe.teacher is not None:
            self.teacher = load_teacher(Path(recipe.teacher), self.network).to(self.device)
            self.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.to(self.device)
        # bfloat16 in the NCHW layout is several times slower than float32 on CPUs.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = _optimizers(self.model, recipe)
        self.batches = Batches(
            torch.from_numpy(dataset.train.images[: recipe.limit]).to(self.device),
            torch.from_numpy(dataset.train.labels[: recipe.limit]).to(self.device),
            recipe.batch,
            shift=recipe.shift,
            flip=recipe.flip,
            fill=dataset.input_zero,
            world=world,
        )
        if len(self.batches) == 0:
            images = len(dataset.train.labels[: recipe.limit])
            raise CgateError(
                f"recipe {recipe.name}: a batch of {recipe.batch} is more than the {images} "
                "training images",
                "raise the limit or lower the batch",
            )

    def record(self, out: Path, log: list[Row]) -> Record:
        """The record of this run in the folder `out`, after the epochs in `log`."""
        recipe = self.recipe
        facts = {
            "recipe": recipe.to_json(),
            "network": self.network.to_json(),
            "data": {"name": self.dataset.name, "md5": self.dataset.md5},
            "environment": environment(describe(self.device), self.world.size),
        }
        return Record(out, facts, log, recipe.epochs, recipe.tau if self.network.gated else None)

    def policy(self, done: float, generator: torch.Generator) -> GatePolicy:
        """The relaxed gates after this fraction of the run."""
        recipe = self.recipe
        annealed = min(1.0, done / recipe.anneal)
        schedule = SCHEDULES[recipe.temperature_schedule]
        temperature = schedule(recipe.temperature, recipe.temperature_end, annealed)
        return relaxed(temperature, recipe.noise * (1 - annealed), generator, recipe.hard)

    def taught(self, images: Tensor) -> Tensor | None:
        """The teacher's logits float32 [N, classes], None without one; its gates are hard."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            output: Output = self.teacher(images, learned)
        return output.logits

    def loss(
        self, output: Output, labels: Tensor, done: float, taught: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What training pays for a batch, and the executed share of its relaxed gates.

        Args:
            output: of the batch.
            labels: int64 [N].
            done: fraction of the run.
            taught: what the teacher says of it.

        Returns:
            Two scalars, float32.
        """
        recipe = self.recipe
        loss = functional.cross_entropy(output.logits, labels)
        if taught is not None:
            loss = (1 - recipe.teach) * loss + recipe.teach * imitation(output.logits, taught)
        share = torch.ones_like(loss)
        if output.gates:
            share = executed_share(output.gates, self.costs)
            loss = loss + cost_penalty(
                share,
                recipe.tau,
                recipe.cost_weight,
                done / recipe.warmup if recipe.warmup else 1.0,
            )
            if recipe.bandpass:
                loss = loss + recipe.bandpass * bandpass(
                    output.gates.values(), recipe.floor, recipe.ceiling
                )
            error = distillation(output.scores.values())
            if error is not None:
                loss = loss + recipe.distillation * error
            if output.pairs:
                loss = loss + recipe.consistency * consistency(output.pairs, len(labels))
        if recipe.exits is not None:
            loss = loss + exit_loss(output.exits, output.logits, labels, recipe.exits)
        return loss, share

    def train_epoch(self, epoch: int, progress: Progress) -> Row:
        """Train for one epoch.

        Several ranks average their gradients in each step; batch norm and the penalty on cost see
        a rank's own part of the batch. Running statistics are averaged at the end.

        Returns:
            Means over the epoch: "loss", "share" (executed, of relaxed gates) and "lr" at its end.

        Raises:
            CgateError: the loss or a weight is no longer finite (code 1).
        """
        recipe = self.recipe
        order = epoch_generator(recipe.seed, epoch)
        # Every rank shuffles alike; the noise of its gates is its own.
        generator = order if self.world.main else epoch_generator(recipe.seed, epoch, self.world)
        steps = len(self.batches)
        look_every = 1 if self.device.type == "cpu" else LOOK_EVERY
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        rate = 0.0
        note = f"epoch {epoch + 1}/{recipe.epochs}"
        self.model.train()
        for step, (images, labels) in enumerate(self.batches.epoch(order)):
            done = (epoch * steps + step) / (recipe.epochs * steps)
            # The rate of the step's middle: never 0, not even in the first step.
            rate = one_cycle(done + 0.5 / (recipe.epochs * steps), recipe.rise)
            for kind, peak in (("trunk", recipe.lr), ("gates", recipe.gate_lr)):
                for group in self.optimizers[kind].param_groups if kind in self.optimizers else ():
                    group["lr"] = peak * rate * group.get("factor", 1.0)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"
            ):
                output = self.model(
                    images, self.policy(done, generator), pairs=recipe.consistency > 0
                )
                taught = self.taught(images)
            loss, share = self.loss(output, labels, done, taught)
            # One rank cannot stop alone: the others would wait for it. They look after the epoch.
            if self.world.size == 1 and step % look_every == 0:
                value = loss.item()
                note = f"epoch {epoch + 1}/{recipe.epochs}, loss {value:.3f}"
                if not math.isfinite(value):
                    raise self._diverged(f"the loss is {value} in step {step + 1}", epoch)
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.world.average(
                value.grad for value in self.model.parameters() if value.grad is not None
            )
            for optimizer in self.optimizers.values():
                optimizer.step()
            sums += torch.stack([loss.detach(), share.detach()])
            progress.advance(1, note)
        self.world.average(value for value in self.model.buffers() if value.is_floating_point())
        self.world.average([sums])
        loss_mean, share_mean = (sums / steps).tolist()
        if not math.isfinite(loss_mean):
            raise self._diverged(f"the mean loss is {loss_mean}", epoch)
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise self._diverged("a weight is no longer finite", epoch)
        return {"loss": loss_mean, "share": share_mean, "lr": recipe.lr * rate}

    def validate(self) -> Evaluation:
        """Results on the validation images, after the exits' margins were chosen by them."""
        answers = collect(self.model, self.dataset.validation, world=self.world)
        if self.recipe.exits is not None:
            set_margins(self.model, answers, self.recipe.exits)
        return score(self.model.network, answers)

    def card(self, validation: Evaluation, progress: Progress) -> dict[str, Any]:
        """The card of the trained model; `validation` is from `validate`."""
        return make_card(self.model, self.recipe, self.dataset, validation, progress, self.world)

    def _diverged(self, what: str, epoch: int) -> CgateError:
        kept = f"epoch {epoch} is kept" if epoch else "nothing was saved yet"
        return CgateError(
            f"training diverged: {what} of epoch {epoch + 1}; {kept}",
            f"train into another folder with a peak lr below {self.recipe.lr}",
            EXIT_CHECK_FAILED,
        )


@contextlib.contextmanager
def enough_threads(run: Run) -> Iterator[None]:
    """One thread for steps so small that handing them to a second one costs more than it saves.

    On a busy machine that waiting has been seen to cost seven times the step itself.
    """
    before = torch.get_num_threads()
    if run.device.type == "cpu" and run.macs.dense * run.recipe.batch < SMALL_STEP_MACS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settled(recipe: Recipe, out: Path | None = None) -> Recipe:
    """`recipe` with the dtype of the run in `out`, or of this machine, where it leaves it open."""
    if recipe.dtype != "auto":
        return recipe
    begun = None if out is None else begun_dtype(out)
    return replace(recipe, dtype=begun or fast_dtype(pick_device()))


def _finished(out: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The card in `out` if a run of this recipe is finished there.

    Raises:
        CgateError: `out` holds something else.
    """
    if out.exists() and not out.is_dir():
        raise CgateError(f"{out} is a file, not a folder", "choose another --out")
    if (out / CARD).exists():
        card = read_json(out / CARD, "the card of the checkpoint there")
        check_recipe(out, card.get("recipe") if isinstance(card, dict) else None, recipe.to_json())
        return dict(card)
    if out.is_dir() and any(out.iterdir()) and not (out / STATE).exists():
        raise CgateError(
            f"{out} is not empty and holds no training run (it has no {STATE})",
            "choose another --out, or empty that folder",
        )
    return None


def train(
    recipe: Recipe,
    out: Path,
    *,
    data_dir: Path | None = None,
    epochs: int | None = None,
    progress: Progress,
    limit: int | None = None,
) -> dict[str, Any]:
    """Train a network and write its checkpoint folder (SPEC.md, "Checkpoint").

    Every epoch is saved. The same call on the same folder goes on after the last epoch saved, and
    on a CPU ends with the same bits as a run that was never stopped. A run that is finished is
    not trained again. Started by `torchrun`, its processes train one network together; only the
    first reads an earlier run in `out` and writes there.

    Args:
        recipe: what to train.
        out: folder to write; new, empty, or of an earlier run of the same recipe.
        data_dir: where the data lies, see `cgate.core.data.find_data`.
        epochs: instead of the recipe's.
        progress: told of each step; a line stays for each epoch.
        limit: train on the first so many images only.

    Returns:
        The content of card.json.

    Raises:
        CgateError: the data cannot be read, `out` holds something else, or training diverged
            (code 1; the last good epoch is kept).
    """
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    if limit is not None:
        recipe = replace(recipe, limit=limit)
    with joined() as world:
        if not world.main:
            progress = Silent()
        recipe = world.share(settled(recipe, out) if world.main else recipe)
        finished = world.share(_finished(out, recipe) if world.main else None)
        if finished is not None:
            progress.message(f"{out} holds this run already, finished")
            return finished
        run = Run(recipe, load_dataset(recipe.data, data_dir), world)
        with enough_threads(run):
            with accelerated(run.model, run.device):
                fit(run, out, progress)
            return _finish(run, out, progress)


def train_epochs(
    recipe: Recipe, out: Path, *, data_dir: Path | None = None, progress: Progress
) -> Row:
    """Train to the last epoch, but stop before the test images are read.

    `train` with the same recipe and folder goes on from there to a finished checkpoint.

    Returns:
        The last row of log.csv.

    Raises:
        CgateError: as `train` does.
    """
    recipe = settled(recipe, out)
    run = Run(recipe, load_dataset(recipe.data, data_dir))
    with enough_threads(run), accelerated(run.model, run.device):
        return fit(run, out, progress).log[-1]


def fit(run: Run, out: Path, progress: Progress) -> State:
    """Train to the last epoch, saving each."""
    recipe = run.recipe
    state = load_shared_state(run.world, out, recipe.to_json(), run.model, run.optimizers)
    if run.world.main and not state.epoch:
        # Claims the folder, and finds out before the first epoch that it cannot be written.
        claim(out, recipe.to_json())
    record = run.record(out, state.log) if run.world.main else None
    progress.start(f"train {recipe.name}", recipe.epochs * len(run.batches))
    if state.epoch:
        progress.advance(state.epoch * len(run.batches))
        progress.message(f"going on after epoch {state.epoch} of {recipe.epochs}")
    try:
        while state.epoch < recipe.epochs:
            trained = run.train_epoch(state.epoch, progress)
            result = run.validate()
            row = epoch_row(state.epoch, trained, result, run.macs.dense)
            state = State(state.epoch + 1, [*state.log, row])
            if record is None:
                continue
            save_state(out, recipe.to_json(), state, run.model, run.optimizers)
            taken = record.epoch(row)
            progress.message(f"{epoch_line(row, recipe.epochs)}  {taken}")
            warming = state.epoch <= recipe.warmup * recipe.epochs
            news = collapse(run.network, state.log, warming)
            if news:
                progress.message(news)
    except KeyboardInterrupt:
        progress.message(
            f"stopped; epoch {state.epoch} of {recipe.epochs} is saved in {out}, "
            "the same command goes on from there"
            if state.epoch
            else "stopped before the first epoch was saved"
        )
        raise
    finally:
        if record is not None:
            record.close()
    return state


def _finish(run: Run, out: Path, progress: Progress) -> dict[str, Any]:
    """Write weights, ranges and card of a trained network, and remove what resuming needed."""
    validation = run.validate()
    if not run.world.main:
        return run.card(validation, progress)
    weights = {name: value.cpu().contiguous() for name, value in run.model.state_dict().items()}
    write_bytes(out / WEIGHTS, save(weights))
    card = run.card(validation, progress)
    progress.start("measure activation ranges", 1)
    write_json(out / RANGES, measure_ranges(run.model, run.dataset, run.recipe.seed))
    progress.advance()
    # The card comes last: a folder that has one is complete.
    write_json(out / CARD, card)
    remove_state(out)
    return dict(read_json(out / CARD, "the checkpoint's card"))

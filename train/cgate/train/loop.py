"""Training: from a recipe to a finished checkpoint folder."""

from __future__ import annotations

import contextlib
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from cgate.core.checkpoint import CARD, RANGES, SCHEMA, WEIGHTS
from cgate.core.data import Dataset, load_dataset
from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import read_json, write_bytes, write_json, write_text
from cgate.core.network import THRESHOLD, network_macs
from cgate.core.progress import Progress
from cgate.core.version import __version__
from cgate.train.batches import Batches
from cgate.train.evaluate import Evaluation, evaluate
from cgate.train.gates import GatePolicy, all_open, fixed, relaxed, shuffled
from cgate.train.losses import consistency, cost_penalty, executed_share
from cgate.train.models import GatedResNet
from cgate.train.ranges import measure_ranges
from cgate.train.recipes import Recipe
from cgate.train.resume import (
    STATE,
    Row,
    State,
    check_recipe,
    claim,
    epoch_generator,
    load_state,
    remove_state,
    save_state,
)

LOG = "log.csv"
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
    plain: list[Tensor] = []
    decayed: list[Tensor] = []
    for name, value in model.named_parameters():
        (gates if ".gate." in name else decayed if value.ndim > 1 else plain).append(value)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain},
    ]
    optimizers: dict[str, Optimizer] = {
        "trunk": SGD(groups, recipe.lr, momentum=0.9, nesterov=True)
    }
    if gates:
        # A gate's gradient is orders of magnitude below that of a convolution; Adam rescales it.
        optimizers["gates"] = Adam(gates, recipe.gate_lr)
    return optimizers


class _Run:
    """One training run: a recipe, its data, model and optimizers."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = recipe.network(dataset)
        self.macs = network_macs(self.network)
        # The caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = GatedResNet(self.network, recipe.gate_bias)
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
        )
        if len(self.batches) == 0:
            images = len(dataset.train.labels[: recipe.limit])
            raise CgateError(
                f"recipe {recipe.name}: a batch of {recipe.batch} is more than the {images} "
                "training images",
                "raise the limit or lower the batch",
            )

    def policy(self, done: float, generator: torch.Generator) -> GatePolicy:
        """The relaxed gates after this fraction of the run."""
        recipe = self.recipe
        annealed = min(1.0, done / recipe.anneal)
        temperature = recipe.temperature + annealed * (recipe.temperature_end - recipe.temperature)
        return relaxed(temperature, 1 - annealed, generator)

    def train_epoch(self, epoch: int, progress: Progress) -> Row:
        """Train for one epoch.

        Returns:
            Means over the epoch: "loss", "share" (executed, of relaxed gates) and "lr" at its end.

        Raises:
            CgateError: the loss or a weight is no longer finite (code 1).
        """
        recipe = self.recipe
        generator = epoch_generator(recipe.seed, epoch)
        steps = len(self.batches)
        loss_sum = share_sum = 0.0
        rate = 0.0
        self.model.train()
        for step, (images, labels) in enumerate(self.batches.epoch(generator)):
            done = (epoch * steps + step) / (recipe.epochs * steps)
            # The rate of the step's middle: never 0, not even in the first step.
            rate = one_cycle(done + 0.5 / (recipe.epochs * steps), recipe.rise)
            for kind, peak in (("trunk", recipe.lr), ("gates", recipe.gate_lr)):
                for group in self.optimizers[kind].param_groups if kind in self.optimizers else ():
                    group["lr"] = peak * rate
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"
            ):
                output = self.model(
                    images, self.policy(done, generator), pairs=recipe.consistency > 0
                )
            loss = functional.cross_entropy(output.logits, labels)
            share = 1.0
            if output.gates:
                executed = executed_share(output.gates, self.macs)
                share = executed.item()
                loss = loss + cost_penalty(
                    executed, recipe.tau, recipe.cost_weight, done / recipe.warmup
                )
                if output.pairs:
                    loss = loss + recipe.consistency * consistency(output.pairs)
            value = loss.item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value} in step {step + 1}", epoch)
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in self.optimizers.values():
                optimizer.step()
            loss_sum += value
            share_sum += share
            progress.advance(1, f"epoch {epoch + 1}/{recipe.epochs}, loss {value:.3f}")
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise self._diverged("a weight is no longer finite", epoch)
        return {"loss": loss_sum / steps, "share": share_sum / steps, "lr": recipe.lr * rate}

    def _diverged(self, what: str, epoch: int) -> CgateError:
        kept = f"epoch {epoch} is kept" if epoch else "nothing was saved yet"
        return CgateError(
            f"training diverged: {what} of epoch {epoch + 1}; {kept}",
            f"train into another folder with a peak lr below {self.recipe.lr}",
            EXIT_CHECK_FAILED,
        )


@contextlib.contextmanager
def _enough_threads(run: _Run) -> Iterator[None]:
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


def _row(epoch: int, trained: Row, result: Evaluation, dense_macs: int) -> Row:
    row: Row = {
        "epoch": epoch + 1,
        "lr": round(trained["lr"], 6),
        "train_loss": round(trained["loss"], 6),
        "train_share": round(trained["share"], 6),
        "validation_accuracy": round(result.accuracy, 6),
        "executed_share": round(result.executed_macs / dense_macs, 6),
    }
    return row | {f"open_{block}": round(rate, 6) for block, rate in result.open_rates.items()}


def _line(row: Row, epochs: int) -> str:
    gates = [value for key, value in row.items() if key.startswith("open_")]
    text = (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.3f}  "
        f"validation {row['validation_accuracy']:.2%}"
    )
    if gates:
        text += f"  executed {row['executed_share']:.1%}  open"
        text += "".join(f" {rate:.2f}" for rate in gates)
    return text


def _collapsed(row: Row | None) -> str:
    """What is wrong with the gates in an epoch: "open" or "shut" for all images, or ""."""
    gates = {value for key, value in (row or {}).items() if key.startswith("open_")}
    return {frozenset({1.0}): "open", frozenset({0.0}): "shut"}.get(frozenset(gates), "")


def _write_log(out: Path, log: list[Row]) -> None:
    lines = [",".join(log[0]), *(",".join(str(value) for value in row.values()) for row in log)]
    write_text(out / LOG, "\n".join(lines) + "\n")


def _commit() -> str | None:
    """The commit that this file is tracked in, "-dirty" if changed; None outside a checkout."""
    here = Path(__file__)
    for arguments in (
        ["ls-files", "--error-unmatch", here.name],
        ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    ):
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=here.parent,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return None
    return done.stdout.strip()


def _result(evaluation: Evaluation) -> dict[str, float]:
    return {"accuracy": evaluation.accuracy, "executed_macs": evaluation.executed_macs}


def _card(run: _Run, progress: Progress) -> dict[str, Any]:
    """Evaluate the trained model and describe it; the only place that reads the test images."""
    recipe, dataset, model = run.recipe, run.dataset, run.model
    progress.start("evaluate", 5 if model.network.gated else 2)
    validation = evaluate(model, dataset.validation)
    progress.advance()
    test = evaluate(model, dataset.test)
    progress.advance()
    controls: dict[str, dict[str, float]] = {}
    if model.network.gated:
        # Gates are worth their cost only if the network beats the same weights with each gate
        # fixed at its most frequent decision. That decision is taken on the validation images.
        majority = {block: rate > 0.5 for block, rate in validation.open_rates.items()}
        generator = torch.Generator().manual_seed(recipe.seed)
        policies: Mapping[str, GatePolicy] = {
            "open": all_open,
            "majority": fixed(majority),
            "shuffled": shuffled(generator),
        }
        for name, policy in policies.items():
            controls[name] = _result(evaluate(model, dataset.test, policy))
            progress.advance()
    cuda = run.device.type == "cuda"
    return {
        "schema": SCHEMA,
        "network": model.network.to_json(),
        "recipe": recipe.to_json(),
        "data": {"name": dataset.name, "md5": dataset.md5, "classes": list(dataset.classes)},
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "threshold": THRESHOLD,
        "accuracy": {
            "validation": validation.accuracy,
            "test": test.accuracy,
            "images": {"validation": validation.images, "test": test.images},
        },
        "open_rates": {
            block: {"all": rate, "by_class": test.by_class[block]}
            for block, rate in test.open_rates.items()
        },
        "executed_macs": test.executed_macs,
        "dense_macs": run.macs.dense,
        "controls": controls,
        "cgate": __version__,
        "commit": _commit(),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "device": torch.cuda.get_device_name() if cuda else "cpu",
        },
    }


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
    not trained again.

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
    finished = _finished(out, recipe)
    if finished is not None:
        progress.message(f"{out} holds this run already, finished")
        return finished
    run = _Run(recipe, load_dataset(recipe.data, data_dir))
    with _enough_threads(run):
        _fit(run, out, progress)
        return _finish(run, out, progress)


def _fit(run: _Run, out: Path, progress: Progress) -> None:
    """Train to the last epoch, saving each."""
    recipe = run.recipe
    state = load_state(out, recipe.to_json(), run.model, run.optimizers)
    if not state.epoch:
        # Claims the folder, and finds out before the first epoch that it cannot be written.
        claim(out, recipe.to_json())
    progress.start(f"train {recipe.name}", recipe.epochs * len(run.batches))
    if state.epoch:
        progress.advance(state.epoch * len(run.batches))
        progress.message(f"going on after epoch {state.epoch} of {recipe.epochs}")
    try:
        while state.epoch < recipe.epochs:
            trained = run.train_epoch(state.epoch, progress)
            result = evaluate(run.model, run.dataset.validation)
            row = _row(state.epoch, trained, result, run.macs.dense)
            collapse = _collapsed(row)
            before = _collapsed(state.log[-1] if state.log else None)
            state = State(state.epoch + 1, [*state.log, row])
            save_state(out, recipe.to_json(), state, run.model, run.optimizers)
            _write_log(out, state.log)
            progress.message(_line(row, recipe.epochs))
            # Gates start open on purpose: that is worth a word only once the cost is in force.
            warming = collapse == "open" and state.epoch <= recipe.warmup * recipe.epochs
            if collapse and collapse != before and not warming:
                progress.message(
                    f"all gates are {collapse} for every validation image, so none decides"
                )
    except KeyboardInterrupt:
        progress.message(
            f"stopped; epoch {state.epoch} of {recipe.epochs} is saved in {out}, "
            "the same command goes on from there"
            if state.epoch
            else "stopped before the first epoch was saved"
        )
        raise


def _finish(run: _Run, out: Path, progress: Progress) -> dict[str, Any]:
    """Write weights, ranges and card of a trained network, and remove what resuming needed."""
    weights = {name: value.cpu().contiguous() for name, value in run.model.state_dict().items()}
    write_bytes(out / WEIGHTS, save(weights))
    card = _card(run, progress)
    progress.start("measure activation ranges", 1)
    write_json(out / RANGES, measure_ranges(run.model, run.dataset, run.recipe.seed))
    progress.advance()
    # The card comes last: a folder that has one is complete.
    write_json(out / CARD, card)
    remove_state(out)
    return dict(read_json(out / CARD, "the checkpoint's card"))

"""The card of a checkpoint: what its weights do, on validation and test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from cgate.core.checkpoint import SCHEMA
from cgate.core.data import Dataset
from cgate.core.gates import GATE_KINDS
from cgate.core.network import THRESHOLD, network_macs
from cgate.core.progress import Progress
from cgate.core.version import __version__, commit
from cgate.train.device import describe
from cgate.train.evaluate import Evaluation, collect, evaluate, exit_controls, score
from cgate.train.fidelity import cir_fidelity
from cgate.train.frozen import majority
from cgate.train.gates import GatePolicy, all_open, fixed, shuffled
from cgate.train.models import GatedResNet
from cgate.train.recipes import Recipe
from cgate.train.record import environment
from cgate.train.world import ALONE, World


def _result(evaluation: Evaluation) -> dict[str, float]:
    return {"accuracy": evaluation.accuracy, "executed_macs": evaluation.executed_macs}


def _gate_facts(kind: str) -> dict[str, Any]:
    """What the card says of the gates' kind: what they see, whether they save, and export."""
    facts = GATE_KINDS[kind]
    return {
        "kind": kind,
        "looks_at": facts.looks_at,
        "saves": not facts.needs_body,
        "exportable": not facts.refusal,
        "refusal": facts.refusal,
    }


def make_card(
    model: GatedResNet,
    recipe: Recipe,
    dataset: Dataset,
    validation: Evaluation,
    progress: Progress,
    world: World = ALONE,
) -> dict[str, Any]:
    """Evaluate a trained model and describe it; the only place that reads the test images.

    Args:
        model: its exits have their margins.
        recipe: how it was trained.
        validation: of the model as it is.
    """
    network = model.network
    progress.start("evaluate", 4 if network.gated else 1)
    answers = collect(model, dataset.test, world=world)
    test = score(network, answers)
    progress.advance()
    controls: dict[str, dict[str, float]] = {}
    if network.exits:
        generator = torch.Generator().manual_seed(recipe.seed)
        for name, result in exit_controls(network, answers, generator).items():
            controls[name] = _result(result)
    if network.gated:
        # Gates are worth their cost only if the network beats the same weights with each gate
        # fixed at its most frequent decision. That decision is taken on the validation images.
        decisions = majority(validation)
        generator = torch.Generator().manual_seed(recipe.seed)
        policies: Mapping[str, GatePolicy] = {
            "open": all_open,
            "majority": fixed(decisions),
            "shuffled": shuffled(generator),
        }
        for name, policy in policies.items():
            leave = policy is not all_open  # "open" runs everything
            result = evaluate(
                model, dataset.test, policy, leave, fixed=name == "majority", world=world
            )
            controls[name] = _result(result)
            progress.advance()
    return {
        "schema": SCHEMA,
        "network": network.to_json(),
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
        "exits": [
            {"margin": each.margin, **asdict(result)}
            for each, result in zip(network.exits, test.exits, strict=True)
        ],
        "gate": next((_gate_facts(b.gate.kind) for b in network.blocks if b.gate), None),
        "cir": cir_fidelity(model, dataset.test),
        "executed_macs": test.executed_macs,
        "dense_macs": network_macs(network).dense,
        "controls": controls,
        "cgate": __version__,
        "commit": commit(),
        "environment": environment(describe(next(model.parameters()).device), world.size),
    }

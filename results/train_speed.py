"""Print results/train_speed.csv: what a training step costs with every kind of gate.

python results/train_speed.py [ROUNDS]. One thread, and its own CPU time, so that other work on
the machine matters less; the kinds take turns, and the median of the rounds counts.
"""

import csv
import statistics
import sys
import time
from collections.abc import Callable

import torch

from cgate.core.data import load_dataset
from cgate.core.gates import GATE_KINDS
from cgate.core.version import commit
from cgate.train.loop import Run
from cgate.train.recipes import find_recipe
from cgate.train.resume import epoch_generator


def stepper(kind: str) -> tuple[Callable[[], float], Run]:
    """A function that trains one step and tells its seconds."""
    run = Run(find_recipe("balanced").with_gate(kind), load_dataset("cifar10"))
    run.model.train()
    generator = epoch_generator(0, 0)
    batches = run.batches.epoch(generator)

    def step() -> float:
        images, labels = next(batches)
        start = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16):
            output = run.model(images, run.policy(0.3, generator), pairs=run.recipe.consistency > 0)
        loss, _ = run.loss(output, labels, 0.3)
        for optimizer in run.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in run.optimizers.values():
            optimizer.step()
        return time.thread_time() - start

    return step, run


def main(rounds: int) -> None:
    """Write the table to stdout."""
    torch.set_num_threads(1)
    kinds = ["none", *GATE_KINDS]
    steppers = {kind: stepper(kind) for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round_number in range(rounds + 1):
        for kind, (step, _) in steppers.items():
            taken = step()
            if round_number:  # the first step of each allocates
                seconds[kind].append(taken)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["kind", "ms_per_step", "seconds_per_epoch", "against_none", "n", "commit"])
    none = statistics.median(seconds["none"])
    for kind, (_, run) in steppers.items():
        step = statistics.median(seconds[kind])
        writer.writerow(
            [
                kind,
                f"{1000 * step:.0f}",
                f"{step * len(run.batches):.1f}",
                f"{step / none:.2f}",
                rounds,
                commit()[:12],
            ]
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

"""The formats of a trained checkpoint: time to export, and how they agree with plan and torch.

PYTHONPATH=train:export:host_tools:tests/support python tests/export/bench_formats.py CHECKPOINT N

Prints a CSV of the first N test images. `skipped` is the share of gated bodies that the file's own
decisions did not run.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cgate.core.checkpoint import load_checkpoint
from cgate.core.data import load_dataset
from cgate.core.plan import Unit, load_bundle
from cgate.export import reference
from cgate.export.emit_tflite_network import NETWORK_FILE
from cgate.export.golden import INTERPRETERS, GoldenUnit
from float_network import FloatNetwork


def export_seconds(folder: Path, out: Path) -> tuple[float, float]:
    """Wall and CPU seconds of `cgate export --onnx` in a process of its own."""
    command = [sys.executable, "-m", "cgate.host_tools", "export", str(folder), "--onnx"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(folder: Path, count: int) -> None:
    """Print the table."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    network = load_checkpoint(folder)
    pixels = load_dataset(network.card["data"]["name"]).test.images[:count]
    print("network,format,tool,compared,differ,largest_relative_difference,skipped,n,commit")

    def row(*fields: object) -> None:
        print(network.network.name, *fields, count, commit, sep=",")

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "bundle"
        wall, cpu = export_seconds(folder, out)
        print(f"export --onnx: {wall:.2f} s, {cpu:.2f} s of CPU", file=sys.stderr)
        bundle = load_bundle(out)
        expected = reference.run(bundle.plan, bundle.weights, reference.to_input(pixels))
        for package in INTERPRETERS:
            file = GoldenUnit((out / NETWORK_FILE).read_bytes(), package)
            logits, *opened = file([reference.to_input(pixels)])
            decisions = np.stack([each.reshape(-1) for each in opened], axis=1)
            compared = logits.size + decisions.size
            differing = (logits != expected.logits).sum() + (decisions != expected.decisions).sum()
            skipped = 1 - bundle.plan.ran(decisions)[:, conditional(bundle.plan.units)].mean()
            row(NETWORK_FILE, f"{package} BUILTIN_REF", compared, differing, "", f"{skipped:.4f}")
    case = FloatNetwork(folder, pixels)
    skipped = 1 - case.ran[:, conditional(case.plan.units)].mean()
    worst, differing = zip(*(case.compare_unit(unit) for unit in case.plan.units), strict=True)
    total = sum(case.values[unit.output].size for unit in case.plan.units)
    row("units/*.onnx", "onnxruntime", total, sum(differing), f"{max(worst):.2e}", "")
    largest, flips = case.compare_network()
    total = int(case.clear.sum()) * (case.values[case.plan.output].shape[1] + len(case.plan.gates))
    row("model.onnx", "onnxruntime", total, flips, f"{largest:.2e}", f"{skipped:.4f}")


def conditional(units: tuple[Unit, ...]) -> list[int]:
    """Places of the units that have a gate."""
    return [unit.index for unit in units if unit.condition is not None]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

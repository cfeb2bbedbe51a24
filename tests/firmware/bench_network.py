"""Instructions of a whole dense ResNet-20 (random weights) per set of kernels, under QEMU.

PYTHONPATH=train:export:host_tools:tests/support python tests/firmware/bench_network.py [TARGET]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from cgate.core.network import Block, Conv, Network
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.build import build
from cgate.host_tools.runner import run
from synthetic import random_images, write_checkpoint


def resnet20() -> Network:
    """Option A, 32x32x3, 10 classes, no gates."""
    blocks = []
    before = 16
    for stage, width in enumerate((16, 32, 64), 1):
        for i in range(3):
            down = width != before
            body = (Conv(before, width, 3, 2 if down else 1), Conv(width, width, relu=False))
            shortcut = "pad" if down else "identity"
            blocks.append(Block(f"s{stage}b{i}", body, shortcut, None))
            before = width
    return Network("resnet20", (32, 32, 3), 128, 64, 10, Conv(3, 16), tuple(blocks))


def main(name: str) -> None:
    """Print a CSV table."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    target, network = find_target(name), resnet20()
    images = (random_images(network, 2, 5).astype(np.int16) - 128).astype(np.int8)
    print("network,target,kernels,instructions,macs,macs_per_instruction,flash,ram,stack,n,commit")
    logits = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_checkpoint(folder / "checkpoint", network, images=4)
        for kernels in ("ref", "auto"):
            bundle = folder / kernels
            made = export_checkpoint(folder / "checkpoint", bundle, target, kernels=kernels)
            program = build(bundle, target)
            results = run(program, images)
            logits.append([list(result.logits) for result in results])
            counts = [result.instructions for result in results]
            mean = int(np.mean([count.sum() for count in counts if count is not None]))
            macs = made.plan.dense_macs
            size = f"{program.flash},{program.ram},{program.stack},{len(images)},{commit}"
            print(f"resnet20,{name},{kernels},{mean},{macs},{macs / mean:.3f},{size}")
            if counts[0] is not None:
                for unit, count in zip(made.plan.units, counts[0], strict=True):
                    print(f"  {unit.name:12} {count:>12,} {unit.macs:>12,}", file=sys.stderr)
    assert logits[0] == logits[1]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cortex-m4")

"""Every named network, small and with random weights, gated where it can be, on every route.

PYTHONPATH=train:export:host_tools:tests/support python tests/host_tools/bench_networks.py [NAME..]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from cgate.core.network import Gate
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.verify import verify
from cgate.train.networks import NETWORKS, Task, build_network
from synthetic import random_images, write_checkpoint

TASK = Task((32, 32, 3), 10, 121, 64)
WIDTH = 0.25
IMAGES = 4


def main(names: list[str]) -> None:
    """Print a CSV table."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    sizes = "macs,weights_bytes,arena_bytes"
    print(f"network,target,units,gates,{sizes},routes,values,decisions,differ,n,commit")
    for name in names or NETWORKS:
        network = build_network(name, TASK, width=WIDTH, gate=Gate(), gate_downsampling=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            checkpoint = write_checkpoint(folder / "checkpoint", network, images=4)
            target = find_target("cortex-m4")
            made = export_checkpoint(checkpoint.folder, folder / "bundle", target)
            images = random_images(network, IMAGES, 5)
            result = verify(folder / "bundle", images, data="random")
        plan, found = made.plan, result.comparisons
        sizes = f"{plan.dense_macs},{sum(made.unit_flash)},{plan.arena_size}"
        values = sum(each.values for each in found)
        decisions = sum(each.decisions for each in found)
        differ = sum(each.differing for each in found)
        routes = "+".join(each.route for each in found)
        counts = f"{routes},{values},{decisions},{differ},{IMAGES},{commit}"
        line = f"{network.name},{target.name},{len(plan.units)},{len(plan.gates)},{sizes},{counts}"
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

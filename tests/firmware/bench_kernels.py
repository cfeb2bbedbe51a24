"""Instructions of every convolution kernel on the 3x3 layers of ResNet-20, counted under QEMU.

    PYTHONPATH=export:host_tools:tests/support \
        python tests/firmware/bench_kernels.py [TARGET] > kernels.csv

Random weights and inputs, seed 0; zero points -128 and multipliers as after training. Outputs are
compared with ref's. Instruction counts do not depend on the data, except for ref's requantisation.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from c_programs import compile_target, run_target
from cgate.export.kernels import CONV_KERNELS, ConvLayer
from kernel_harness import ROWS, SOURCES, Case, answers, encode

SHAPES = ((32, 16), (16, 32), (8, 64))


def layer(size: int, channels: int) -> ConvLayer:
    """A stride-1 layer with a fused ReLU."""
    rng = np.random.default_rng(0)
    shape = (size, size, channels)
    return ConvLayer(
        *(shape, shape, 1, 1, 1, -128, -128),
        weights=rng.integers(-127, 128, (channels, 3, 3, channels)).astype(np.int8),
        bias=rng.integers(-5000, 5001, channels).astype(np.int32),
        multiplier=rng.integers(1 << 30, 1 << 31, channels).astype(np.int32),
        shift=np.full(channels, -9, np.int8),
    )


def main(target: str) -> None:
    """Print a CSV table."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    program = compile_target("bench", target, SOURCES, f"-DBUFFER={320 * 1024}")
    print("layer,target,kernel,instructions,macs,macs_per_instruction,flash,scratch,n,commit")
    for size, channels in SHAPES:
        conv = layer(size, channels)
        x = np.random.default_rng(1).integers(-128, 128, conv.in_shape).astype(np.int8)
        fields = (*conv.in_shape, *conv.out_shape, 3, 3, 1, 1, 1, -128, -128, -128, 127)
        arrays = (x, np.zeros_like(x), conv.weights, conv.bias, conv.multiplier, conv.shift)
        kernels = {name.split("__")[1]: kernel for name, kernel in CONV_KERNELS.items()}
        packed = {variant: kernel.pack(conv) for variant, kernel in kernels.items()}
        case = Case("conv2d_s8", fields, arrays, None, packed)
        variants = [variant for op, variant, _ in ROWS if op == "conv2d_s8"]
        with tempfile.TemporaryDirectory() as folder:
            request = encode([("conv2d_s8", variant, case) for variant in variants])
            output, counts = run_target(program, target, Path(folder), request)
        replies = list(answers(output))
        for variant, count, (status, scratch, data) in zip(
            variants, counts.total, replies, strict=True
        ):
            assert status == 0 and data == replies[variants.index("ref")][2], variant
            flash = packed[variant].nbytes if variant in packed else conv.plain_size
            row = f"{count},{conv.macs},{conv.macs / count:.3f},{flash},{scratch},1,{commit}"
            print(f"{channels}ch {size}x{size},{target},{variant},{row}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cortex-m4")

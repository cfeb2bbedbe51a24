"""The cycle model beside a published measurement: MLPerf Tiny ic01 with CMSIS-NN on NUCLEO-L4R5ZI.

PYTHONPATH=train:export:host_tools python tests/host_tools/bench_published.py IC01.tflite FOLDER..

FOLDER: copies of CMSIS-NN to compare; or the CMSIS folder of CMSIS_5, where the library once was.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from cgate.core.targets import FlashAccess, find_target, stand_in
from cgate.export.bundle import export_tflite
from cgate.host_tools import build as build_module
from cgate.host_tools.build import ARM_FLAGS, build
from cgate.host_tools.cmsis_nn import CmsisNn, find_cmsis_nn
from cgate.host_tools.runner import run

PUBLISHED = 46_747_000
"""Cycles: 389.56 ms at 120 MHz, mlcommons/tiny_results_v1.0, OctoML, microtvm_cmsis_nn."""

BOARD = find_target("nucleo-l4r5zi")


class Cmsis5(CmsisNn):
    """The library as a part of CMSIS 5, older than what the adapters ask for."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Also the core's headers; there is no requantisation in assembly yet."""
        core = self.folder.parent / "Core" / "Include"
        return ("-DCG_CMSIS_NN", "-isystem", str(self.folder / "Include"), "-isystem", str(core))


def library(folder: Path) -> CmsisNn:
    """The copy in `folder`, whatever its age."""
    if (folder / "NN").is_dir():
        header = (folder / "NN" / "Include" / "arm_nnfunctions.h").read_text(errors="replace")
        return Cmsis5(folder / "NN", "V." + header.partition("Revision:")[2].split(".", 1)[1][:6])
    return find_cmsis_nn(folder)


def memories() -> Iterator[tuple[str, FlashAccess | None]]:
    """Readings of the flash interface, from none to the slowest.

    Of a cache line of four accesses either all are waited for, one by one, or the first only.
    """
    one = BOARD.flash_access
    assert one is not None
    lines, data_lines = one.instruction_lines // 4, one.data_lines // 4
    four = replace(one, line=4 * one.line, instruction_lines=lines, data_lines=data_lines)
    yield "none", None
    for name, access in (("one access in four", four), ("every access", one)):
        yield f"{name}, prefetch", access
        yield name, replace(access, prefetch=False)


def main(network: Path, folders: list[Path]) -> None:
    """Print a CSV table: by library, options, and what of the flash is waited for."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print("cmsis_nn,options,flash_model,instructions,cycles,published,of_published,n,commit")
    image = np.random.default_rng(0).integers(-128, 128, (1, 32, 32, 3)).astype(np.int8)
    for folder in folders:
        for options in (ARM_FLAGS, tuple(f.replace("-O2", "-Os") for f in ARM_FLAGS)):
            copy = library(folder)
            with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
                # The build asks for a recent release, and has one set of options.
                stack.enter_context(patch.object(build_module, "find_cmsis_nn", return_value=copy))
                stack.enter_context(patch.object(build_module, "ARM_FLAGS", options))
                out = Path(temporary) / "bundle"
                export_tflite(network, out, BOARD, kernels="cmsis-nn")
                made = build(out, stand_in(BOARD), cmsis_nn=folder)
                for name, access in memories():
                    assert made.target is not None
                    machine = replace(made.target, flash_access=access)
                    (result,) = run(replace(made, target=machine), image, jobs=1)
                    assert result.modelled is not None
                    cycles = int(result.modelled[-1, 0])
                    share = f"{cycles / PUBLISHED:.3f}"
                    cells = (copy.revision, options[0], f'"{name}"', result.total, cycles)
                    print(*cells, PUBLISHED, share, 1, commit, sep=",", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])

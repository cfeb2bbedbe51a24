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

BOARD = replace(find_target("nucleo-l4r5zi"), code_ram=None)
"""All in flash, as it was when it was measured."""


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
    """Readings of the flash interface: none, and by the width of an access.

    64 bits are the factory's two banks; 128 bits are one bank, the option bit DBANK cleared; 256
    bits are a line of the caches at once.
    """
    one = BOARD.flash_access
    assert one is not None
    yield "none", None
    for times in (4, 2, 1):
        lines, data_lines = one.instruction_lines // times, one.data_lines // times
        access = replace(one, line=times * one.line, instruction_lines=lines, data_lines=data_lines)
        yield f"{64 * times} bits, prefetch", access
        yield f"{64 * times} bits", replace(access, prefetch=False)


def rows(
    network: Path, kernels: str, copy: CmsisNn, options: tuple[str, ...]
) -> Iterator[tuple[str, int, int]]:
    """Reading of the flash, instructions, and modelled cycles of one random image."""
    image = np.random.default_rng(0).integers(-128, 128, (1, 32, 32, 3)).astype(np.int8)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        # The build asks for a recent release, and has one set of options.
        stack.enter_context(patch.object(build_module, "find_cmsis_nn", return_value=copy))
        stack.enter_context(patch.object(build_module, "ARM_FLAGS", options))
        out = Path(temporary) / "bundle"
        export_tflite(network, out, BOARD, kernels=kernels)
        made = build(out, stand_in(BOARD), cmsis_nn=copy.folder)
        for name, access in memories():
            assert made.target is not None
            machine = replace(made.target, flash_access=access)
            (result,) = run(replace(made, target=machine), image, jobs=1)
            assert result.modelled is not None
            yield name, int(result.total or 0), int(result.modelled[-1, 0])


def main(network: Path, folders: list[Path]) -> None:
    """Print a CSV table: by library, options, and what of the flash is waited for."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    small = tuple(flag.replace("-O2", "-Os") for flag in ARM_FLAGS)
    copies = [library(folder) for folder in folders]
    jobs = [
        *(("cmsis-nn", copy, ARM_FLAGS) for copy in copies),
        ("cmsis-nn", copies[-1], small),
        ("auto", copies[0], ARM_FLAGS),
    ]
    print("kernels,cmsis_nn,options,flash_access,instructions,cycles,published,n,commit")
    for kernels, copy, options in jobs:
        revision = copy.revision if kernels == "cmsis-nn" else ""
        for name, instructions, cycles in rows(network, kernels, copy, options):
            cells = (kernels, revision, options[0], f'"{name}"', instructions, cycles)
            print(*cells, PUBLISHED, 1, commit, sep=",", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])

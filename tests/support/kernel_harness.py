"""Calls of single kernels: tests/firmware/harness.c and its byte stream."""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c_programs import FIRMWARE

ROWS = re.findall(
    r"^CG_KERNEL\((\w+), (\w+), (\w+)\)",
    (FIRMWARE / "include" / "cg_kernels.inc").read_text(),
    re.MULTILINE,
)
SOURCES = [
    Path(__file__).parents[1] / "firmware" / "harness.c",
    *sorted((FIRMWARE / "src").rglob("*.c")),
]


@dataclass(frozen=True)
class Case:
    """One call: int32 parameters, and the arrays in the order that the harness reads them."""

    op: str
    parameters: tuple[int, ...]
    arrays: tuple[NDArray[Any], ...]
    expected: NDArray[np.int8] | None  # None: the kernel must refuse
    packed: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)  # by variant
    scratch: Mapping[str, int] = field(default_factory=dict)

    def encode(self, row: int, variant: str = "ref") -> bytes:
        parts = [
            struct.pack(f"<II{len(self.parameters)}i", row, len(self.parameters), *self.parameters)
        ]
        arrays = list(self.arrays)
        if self.op in ("conv2d_s8", "depthwise_conv2d_s8"):
            arrays.append(self.packed.get(variant, np.zeros(0, np.int32)))
        for array in arrays:
            parts += [struct.pack("<I", array.nbytes), array.tobytes()]
        return b"".join(parts)


def encode(cases: Sequence[tuple[str, str, Case]]) -> bytes:
    places = {(op, variant): i for i, (op, variant, _) in enumerate(ROWS)}
    return b"".join(case.encode(places[op, variant], variant) for op, variant, case in cases)


def answers(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(status, scratch size, output) of every case."""
    while data:
        status, scratch, size = struct.unpack_from("<III", data)
        yield status, scratch, data[12 : 12 + size]
        data = data[12 + size :]

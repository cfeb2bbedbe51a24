"""Calls of single kernels: the byte stream of firmware/apps/kernels."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.host_tools.toolchain import firmware_folder

OK = 0
"""The status of a call that was done."""


@cache
def kernel_rows() -> list[tuple[str, str, str]]:
    """Op, variant and what it needs of every kernel: the rows of cg_kernels.inc, in order."""
    text = (firmware_folder() / "include" / "cg_kernels.inc").read_text(encoding="utf-8")
    return re.findall(r"^CG_KERNEL\((\w+), (\w+), (\w+)\)", text, re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One call of a kernel.

    Args:
        op: such as `conv2d_s8`.
        parameters: int32 numbers, in the order in which firmware/apps/kernels reads them.
        arrays: input, what the output holds before, then weights and so on, in its order.
        expected: the right output; None where it is not known, or where the kernel must refuse.
        packed: by variant, what it reads in place of weights, bias, multiplier and shift.
        scratch: by variant, the bytes of scratch memory that it should ask for.
    """

    op: str
    parameters: tuple[int, ...]
    arrays: tuple[NDArray[Any], ...]
    expected: NDArray[np.int8] | None
    packed: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    scratch: Mapping[str, int] = field(default_factory=dict)

    def encode(self, row: int, variant: str = "ref") -> bytes:
        """The bytes of a call of this row of `kernel_rows`."""
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
    """The bytes of calls, each an op, a variant and a case."""
    places = {(op, variant): i for i, (op, variant, _) in enumerate(kernel_rows())}
    return b"".join(case.encode(places[op, variant], variant) for op, variant, case in cases)


def answers(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Status, bytes of scratch memory and output of every call."""
    while data:
        status, scratch, size = struct.unpack_from("<III", data)
        yield status, scratch, data[12 : 12 + size]
        data = data[12 + size :]

"""What a program takes besides the constants and the code of its kernels: upper bounds in bytes.

The figures are those of linked programs (stream application, both ways of talking, GCC -O2),
rounded up; tests/host_tools/test_code_sizes.py links programs and holds the estimate to "never too
small, and at most FLASH_SLACK too large". The linker has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence

from cgate.core.plan import Convolution, Decision, Unit

FLASH_SLACK = 4096
_APPLICATION = 4096  # start-up, faults, wire protocol, the model's description, the C library
_CONVOLUTION, _OP = 96, 72  # a cg_conv2d_s8 or another parameter block, and the call
_UNIT = 72  # markers, hooks, a gate's decision

STACK = 4 * 1024  # what the linker script reserves
_VARIABLES = 96  # of the application, and gaps between buffers


def program_flash(units: Sequence[Unit]) -> int:
    """Flash for all but the kernels and what they read."""
    ops = [op for unit in units for op in unit.ops if not isinstance(op, Decision)]
    convolutions = sum(isinstance(op, Convolution) for op in ops)
    others = len(ops) - convolutions
    return _APPLICATION + _CONVOLUTION * convolutions + _OP * others + _UNIT * len(units)


def program_ram(units: Sequence[Unit], owned: int) -> int:
    """RAM for all but the arena.

    Args:
        owned: bytes of the network's input and output.
    """
    decisions = sum(unit.role in ("gate", "exit") for unit in units)
    return STACK + _VARIABLES + 2 * decisions + owned

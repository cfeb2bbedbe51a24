"""Calls of single kernels, for tests: firmware/apps/kernels and what it is compiled from."""

from c_programs import FIRMWARE
from cgate.host_tools.calls import Case, answers, encode, kernel_rows

__all__ = ["ROWS", "SOURCES", "Case", "answers", "encode"]

ROWS = kernel_rows()
SOURCES = [
    FIRMWARE / "apps" / "kernels" / "main.c",
    *sorted((FIRMWARE / "src").rglob("*.c")),
]

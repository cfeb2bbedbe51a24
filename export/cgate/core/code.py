"""How much code a kernel takes: committed tables per core in code/, from linked programs.

Kernels share functions. The tables therefore name every function and table of constants that a
kernel pulls in, so that the code of a set of kernels is counted once.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from cgate.core.errors import CgateError

FOLDER = Path(__file__).parent / "code"
COLUMNS = ("kernel", "symbol", "bytes")


@cache
def code_table(core: str) -> Mapping[str, Mapping[str, int]]:
    """Bytes by symbol, by kernel.

    Raises:
        CgateError: the table is missing or broken.
    """
    path = FOLDER / f"{core}.csv"
    found: dict[str, dict[str, int]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                found.setdefault(row["kernel"], {})[row["symbol"]] = int(row["bytes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CgateError(
            f"code sizes of {core}: {error}", "cgate bench code writes them"
        ) from error
    return found

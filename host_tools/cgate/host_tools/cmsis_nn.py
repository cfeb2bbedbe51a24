"""Arm's CMSIS-NN beside the library: where it is, whether it will do, what of it is compiled.

It is never a part of the product: a copy is named by `--cmsis-nn` or $CGATE_CMSIS_NN.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cgate.core.errors import EXIT_TOOL_MISSING, CgateError

VARIABLE = "CGATE_CMSIS_NN"
_HEADER = Path("Include") / "arm_nnfunctions.h"
_LOWEST = (18, 0, 0)  # the revision in the header of release 7.0.0
_HINT = (
    "git clone --branch v7.0.0 https://github.com/ARM-software/CMSIS-NN, and name the folder with "
    f"--cmsis-nn or ${VARIABLE}"
)
_FOLDERS = (
    *("ConvolutionFunctions", "BasicMathFunctions", "NNSupportFunctions", "TransposeFunctions"),
)


@dataclass(frozen=True)
class CmsisNn:
    """A copy of the library.

    Args:
        folder: the checkout, with Include/ and Source/.
        revision: of the header arm_nnfunctions.h, such as "V.19.1.0".
    """

    folder: Path
    revision: str

    @property
    def flags(self) -> tuple[str, ...]:
        """Compiler flags; requantisation in assembly is the library's fastest."""
        include = self.folder / "Include"
        return (
            *("-DCG_CMSIS_NN", "-DCMSIS_NN_USE_REQUANTIZE_INLINE_ASSEMBLY", "-isystem"),
            str(include),
        )

    @property
    def sources(self) -> tuple[Path, ...]:
        """The int8 kernels and what they call; the linker drops what is not used."""
        files = [
            path
            for name in _FOLDERS
            for path in sorted((self.folder / "Source" / name).glob("*.c"))
            if not re.search(r"_(f16|f32|s16|s4)(_fast|_opt)?\.c$", path.name)
        ]
        # Products of int8 rows with int16 columns have both in their names.
        files += sorted((self.folder / "Source" / _FOLDERS[0]).glob("*_s8_s16.c"))
        files += sorted((self.folder / "Source" / _FOLDERS[2]).glob("*_s8_s16*.c"))
        files += sorted((self.folder / "Source" / _FOLDERS[0]).glob("*mat_mult_kernel_s16.c"))
        return tuple(dict.fromkeys(files))


def find_cmsis_nn(folder: Path | None) -> CmsisNn:
    """The copy in `folder`, or where $CGATE_CMSIS_NN points.

    Raises:
        CgateError: none is named, it is no copy, or it is older than release 7.0.0.
    """
    named = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is None:
        raise CgateError("no copy of CMSIS-NN is named", _HINT, EXIT_TOOL_MISSING)
    try:
        text = (named / _HEADER).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CgateError(
            f"{named} is no copy of CMSIS-NN: {_HEADER}: {error.strerror}", _HINT, EXIT_TOOL_MISSING
        ) from error
    match = re.search(r"\$Revision:\s*V\.(\d+)\.(\d+)\.(\d+)", text)
    revision = tuple(int(n) for n in match.groups()) if match else (0, 0, 0)
    if revision < _LOWEST:
        raise CgateError(
            f"the copy of CMSIS-NN in {named} is too old: revision {'.'.join(map(str, revision))}, "
            f"release 7.0.0 has {'.'.join(map(str, _LOWEST))}",
            _HINT,
            EXIT_TOOL_MISSING,
        )
    return CmsisNn(named.resolve(), "V." + ".".join(map(str, revision)))


def optional_cmsis_nn(folder: Path | None) -> CmsisNn | None:
    """Like `find_cmsis_nn`, but None where no copy is named."""
    if folder is None and not os.environ.get(VARIABLE):
        return None
    return find_cmsis_nn(folder)

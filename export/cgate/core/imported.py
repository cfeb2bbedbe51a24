"""What is known of a network that was not made here: its ends."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from cgate.core.errors import CgateError

SOURCE = "tflite"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class ImportedNetwork:
    """A network from a .tflite file; it has no blocks, gates and exits that cgate knows of.

    Args:
        name: the file's, made of letters, digits, '.', '_' and '-'.
        input_shape: height, width, channels.
        classes: values of the output.
        source: the format.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    source: str = SOURCE

    @property
    def blocks(self) -> tuple[()]:
        """None: what may be skipped is a matter of training."""
        return ()

    @property
    def gated(self) -> tuple[()]:
        """None, likewise."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `imported_from_json` reads them back."""
        value: dict[str, Any] = asdict(self)
        return value


def is_imported(value: Any) -> bool:
    """Whether parsed JSON describes an imported network rather than a trained one."""
    return isinstance(value, dict) and "source" in value


def imported_from_json(value: Any, where: str = "network") -> ImportedNetwork:
    """Check and read what `ImportedNetwork.to_json` wrote.

    Raises:
        CgateError: a field is missing or of no legal value.
    """
    name, shape, classes = (value.get(key) for key in ("name", "input_shape", "classes"))
    if value.get("source") != SOURCE:
        raise CgateError(f"{where}: source {value.get('source')!r} is not {SOURCE!r}")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise CgateError(f"{where}: name {name!r} is not made of letters, digits, '.', '_', '-'")
    numbers = [*shape, classes] if isinstance(shape, list) else []
    if len(numbers) != 4 or not all(type(n) is int and 1 <= n <= 65535 for n in numbers):
        raise CgateError(f"{where}: input_shape {shape!r} or classes {classes!r} is not legal")
    return ImportedNetwork(name, (shape[0], shape[1], shape[2]), numbers[3])

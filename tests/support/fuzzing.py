"""Damaged inputs for parsers, and the rule that they must obey: success or a CgateError.

`make fuzz` sets CGATE_FUZZ_SECONDS: the tests then go on for so long, with new seeds, instead of a
fixed number of inputs.
"""

from __future__ import annotations

import copy
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from cgate.core.errors import CgateError

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
SECONDS = float(os.environ.get("CGATE_FUZZ_SECONDS", "0"))

HANG_S = 20  # far beyond what any of these inputs takes
MEMORY = 1 << 30  # bytes that a parser may take beyond what the process has already

_TELLING = (0, 1, 2, 3, 4, 8, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 256, 65536, 1 << 40, 10**400, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "x", "conv2d", "../x", "\0", [], [1], [[]], {}, {"x": 1},
)  # fmt: skip


def seeds(count: int) -> Iterator[int]:
    """0 .. count - 1; under `make fuzz` random ones until the time is up."""
    if not SECONDS:
        yield from range(count)
        return
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        yield int.from_bytes(os.urandom(6), "little")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` after one to six changes: bits, telling numbers, cuts, insertions, repetitions."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice([1, 2, 4, 8])
            number = rng.choice(_TELLING) & ((1 << 8 * size) - 1)
            changed[at : at + size] = number.to_bytes(size, "little")
        elif kind == 2:
            del changed[at : at + rng.randint(1, 40)]
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 4 and rng.random() < 0.2:
            del changed[at:]
        elif kind == 5:
            other = rng.randrange(len(changed)) if changed else 0
            changed[at : at + 4] = changed[other : other + 4]
        else:
            # Offsets and counts are small numbers: nudge one.
            word = int.from_bytes(changed[at : at + 4], "little")
            changed[at : at + 4] = ((word + rng.randint(-8, 8)) % (1 << 32)).to_bytes(4, "little")
    return bytes(changed)


def rearranged(value: Any, rng: random.Random) -> Any:
    """Parsed JSON in which one to three values, somewhere, are others, are missing or are extra."""
    value = {"": value}
    for _ in range(rng.randint(1, 3)):
        place: Any = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice(keys)
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.1:
                break
            place = inner
        kind = rng.randrange(6)
        if kind == 0 and place is not value:
            del place[key]
            if not place:
                return value[""]
        elif kind == 1 and isinstance(place, list):
            place.insert(key, place[rng.randrange(len(place))])
        elif kind == 2 and isinstance(place, dict) and place is not value:
            place[rng.choice(["extra", "offset", "ops", "source"])] = copy.deepcopy(
                rng.choice(_VALUES)
            )
        else:
            place[key] = copy.deepcopy(rng.choice(_VALUES))
    return value[""]


def _hung(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"still busy after {HANG_S} s")


def survives(parse: Callable[[], object]) -> bool:
    """Run `parse`: True if it succeeds, False for a CgateError; anything else is raised.

    That includes a hang, and more memory than MEMORY.
    """
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, _hung)
    signal.alarm(HANG_S)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, limits[1]))
    try:
        parse()
    except CgateError as error:
        assert error.message and error.code == 2
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return True


def attack(
    samples: Sequence[Any],
    change: Callable[[Any, random.Random], Any],
    parse: Callable[[Any], object],
    count: int,
) -> None:
    """`survives` for `count` changed samples; the seed of one that does not is in the error."""
    for seed in seeds(count):
        rng = random.Random(seed)
        data = change(rng.choice(samples), rng)
        try:
            survives(partial(parse, data))
        except BaseException as error:
            error.add_note(f"fuzzing seed {seed}")
            raise

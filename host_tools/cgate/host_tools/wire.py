"""Frames between this computer and the device (SPEC.md, section 9)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAGIC = b"CG"
MAX_LENGTH = 1 << 24
"""No reply is longer. A greater length is not a frame but noise that looks like a head."""

INFO, RUN, SHOW, TIME, QUIT = b"I", b"R", b"V", b"T", b"Q"
NO_COUNTER = 4
ERROR_TEXTS = {1: "unknown type", 2: "wrong length", 3: "wrong CRC", NO_COUNTER: "no cycle counter"}
WHOLE = 0xFFFF
"""In the place of a unit's index in a `t` frame: the whole inference."""
STATUS_TEXTS = {
    1: "a pointer is NULL",
    2: "the arena is not aligned",
    3: "a parameter is out of range",
}

_HEAD = struct.Struct("<cBI")
_INFO = struct.Struct("<IIIIHH32s")


@dataclass(frozen=True)
class Frame:
    """One message: a type of one byte, and its payload."""

    type: bytes
    payload: bytes = b""
    flags: int = 0


def encode(frame: Frame) -> bytes:
    """The bytes of a frame: magic, type, flags, length, payload, CRC."""
    body = _HEAD.pack(frame.type, frame.flags, len(frame.payload)) + frame.payload
    return MAGIC + body + struct.pack("<I", zlib.crc32(body))


class Decoder:
    """Finds frames in a stream of bytes, whatever stands between them.

    Attributes:
        skipped: all bytes that belong to no frame, in order; text of the device is among them.
    """

    def __init__(self) -> None:
        self.skipped = bytearray()
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now that `data` has arrived."""
        self._data += data
        while True:
            start = self._data.find(MAGIC)
            if start < 0:
                # The last byte may be the first half of the magic.
                start = len(self._data) - (1 if self._data.endswith(MAGIC[:1]) else 0)
            self._skip(start)
            head = len(MAGIC) + _HEAD.size
            if len(self._data) < head:
                return
            kind, flags, length = _HEAD.unpack_from(self._data, len(MAGIC))
            if length > MAX_LENGTH:
                self._skip(len(MAGIC))
                continue
            end = head + length
            if len(self._data) < end + 4:
                # The rest is still to come, or this is noise that looks like a head and claims
                # bytes that never will: a whole frame behind it tells.
                later = self._whole_frame_behind()
                if later is None:
                    return
                self._skip(later)
                continue
            if not self._is_frame(0, end):
                # Not a frame, or a damaged one: the next may begin inside it.
                self._skip(len(MAGIC))
                continue
            payload = bytes(self._data[head:end])
            del self._data[: end + 4]
            yield Frame(kind, payload, flags)

    def _is_frame(self, start: int, end: int) -> bool:
        """Whether the bytes from the magic at `start` to `end` are followed by their CRC."""
        crc = zlib.crc32(memoryview(self._data)[start + len(MAGIC) : end])
        return crc == int.from_bytes(self._data[end : end + 4], "little")

    def _whole_frame_behind(self) -> int | None:
        """Where the first complete and undamaged frame after the head at 0 begins."""
        head = len(MAGIC) + _HEAD.size
        start = self._data.find(MAGIC, len(MAGIC))
        while 0 <= start <= len(self._data) - head - 4:
            _, _, length = _HEAD.unpack_from(self._data, start + len(MAGIC))
            end = start + head + length
            if end + 4 <= len(self._data) and self._is_frame(start, end):
                return start
            start = self._data.find(MAGIC, start + 1)
        return None

    def _skip(self, count: int) -> None:
        self.skipped += self._data[:count]
        del self._data[:count]


def run_request(
    image: NDArray[np.int8], force: NDArray[np.uint8] | None, type: bytes = RUN
) -> Frame:
    """Ask for an inference.

    Args:
        image: int8, any shape, NHWC order.
        force: per gate 0 learned, 1 open, 2 shut; None for all as learned.
        type: RUN, SHOW to be sent the output of every unit that runs, TIME for its cycles.
    """
    return Frame(type, image.tobytes() + (b"" if force is None else force.tobytes()))


@dataclass(frozen=True)
class Info:
    """What the device says about the model it runs; sizes in bytes."""

    abi: int
    input_size: int
    output_size: int
    arena_size: int
    units: int
    gates: int
    plan_sha256: str
    name: str


def parse_info(payload: bytes) -> Info:
    """Read the payload of an `i` frame.

    Raises:
        ValueError: it is too short or its name is not ASCII.
    """
    if len(payload) < _INFO.size:
        raise ValueError(f"info of {len(payload)} bytes")
    abi, inputs, outputs, arena, units, gates, digest = _INFO.unpack_from(payload)
    name = payload[_INFO.size :].decode("ascii")
    return Info(abi, inputs, outputs, arena, units, gates, digest.hex(), name)


@dataclass(frozen=True)
class RunReply:
    """The outcome of one inference.

    Args:
        status: 0 is good, else a key of STATUS_TEXTS.
        label: number of the class with the greatest logit.
        decisions: uint8 [gates], 1 where the gate itself said open.
        logits: int8 [classes].
    """

    status: int
    label: int
    decisions: NDArray[np.uint8]
    logits: NDArray[np.int8]


def parse_run(payload: bytes, info: Info) -> RunReply:
    """Read the payload of an `r` frame.

    Raises:
        ValueError: its length does not fit `info`.
    """
    if len(payload) != 3 + info.gates + info.output_size:
        raise ValueError(f"result of {len(payload)} bytes")
    status, label = struct.unpack_from("<BH", payload)
    return RunReply(
        status,
        label,
        np.frombuffer(payload, np.uint8, info.gates, 3),
        np.frombuffer(payload, np.int8, info.output_size, 3 + info.gates),
    )


def parse_unit(payload: bytes, info: Info) -> tuple[int, NDArray[np.int8]]:
    """Read the payload of a `u` frame: the unit's index, its output as flat int8.

    Raises:
        ValueError: it is too short or names no unit.
    """
    unit = int.from_bytes(payload[:2], "little")
    if len(payload) < 2 or unit >= info.units:
        raise ValueError(f"output of unit {unit}, {len(payload)} bytes")
    return unit, np.frombuffer(payload, np.int8, offset=2)


def parse_cycles(payload: bytes, info: Info) -> tuple[int, int]:
    """Read the payload of a `t` frame: the unit's index or WHOLE, and cycles.

    Raises:
        ValueError: its length is wrong or it names no unit.
    """
    if len(payload) != 6:
        raise ValueError(f"cycles of {len(payload)} bytes")
    unit, cycles = struct.unpack("<HI", payload)
    if unit >= info.units and unit != WHOLE:
        raise ValueError(f"cycles of unit {unit}")
    return unit, cycles

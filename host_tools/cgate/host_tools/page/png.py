"""PNG files of small pictures, as data URIs: enough to embed a test image in a page."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2  # colour types of the PNG specification, section 11.2.2


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(image: NDArray[np.uint8]) -> bytes:
    """A PNG of `image`: uint8 [H, W, C] with one channel (grey) or three (RGB).

    Raises:
        ValueError: another number of channels.
    """
    height, width, channels = image.shape
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")
    colour = _GREY if channels == 1 else _RGB
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    # Every row begins with its filter, 0 for none.
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = image.reshape(height, -1)
    pixels = zlib.compress(rows.tobytes(), 9)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def png_uri(image: NDArray[np.uint8]) -> str:
    """`png(image)` as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")

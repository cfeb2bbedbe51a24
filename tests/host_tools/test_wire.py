"""Frames: whatever is encoded is found again, whatever surrounds it."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.host_tools.wire import (
    MAX_LENGTH,
    SHOW,
    Decoder,
    Frame,
    encode,
    parse_info,
    parse_run,
    parse_unit,
    run_request,
)

FRAMES = st.builds(
    Frame,
    st.binary(min_size=1, max_size=1),
    st.binary(max_size=200) | st.just(b"CGCG" * 10),
    st.integers(0, 255),
)
# Noise without a 'C' cannot look like a head, so every frame must be found.
NOISE = st.binary(max_size=30).map(lambda data: data.replace(b"C", b"c"))


def crc32(data: bytes) -> int:
    """CRC-32/ISO-HDLC, bit by bit from its definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_bytes_of_a_frame() -> None:
    assert crc32(b"123456789") == 0xCBF43926  # the check value of the CRC catalogue
    body = b"R\x05\x03\x00\x00\x00abc"
    assert encode(Frame(b"R", b"abc", 5)) == b"CG" + body + crc32(body).to_bytes(4, "little")


@given(st.lists(st.tuples(NOISE, FRAMES), max_size=8), st.data())
def test_frames_are_found_in_pieces_and_noise(
    parts: list[tuple[bytes, Frame]], data: st.DataObject
) -> None:
    stream = b"".join(noise + encode(frame) for noise, frame in parts)
    decoder, found = Decoder(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += list(decoder.feed(stream[:size]))
        stream = stream[size:]
    assert found == [frame for _, frame in parts]
    assert bytes(decoder.skipped) == b"".join(noise for noise, _ in parts)


@given(FRAMES, st.data())
def test_damage_is_noticed_and_the_next_frame_found(frame: Frame, data: st.DataObject) -> None:
    damaged = bytearray(encode(frame))
    # Not in the length, which may claim bytes that never come.
    places = [i for i in range(len(damaged)) if not 4 <= i < 8]
    damaged[data.draw(st.sampled_from(places))] ^= data.draw(st.integers(1, 255))
    good = Frame(b"r", b"good")
    frames = list(Decoder().feed(bytes(damaged) + encode(good)))
    assert frames[-1] == good
    assert frame not in frames[:-1] or frame == good


@given(st.binary(max_size=400))
def test_garbage_never_raises(data: bytes) -> None:
    list(Decoder().feed(data))


def test_a_huge_length_is_noise() -> None:
    head = b"CG" + struct.pack("<cBI", b"r", 0, MAX_LENGTH + 1)
    assert list(Decoder().feed(head + encode(Frame(b"q")))) == [Frame(b"q")]


def test_payloads() -> None:
    info_bytes = struct.pack("<IIIIHH", 1, 4, 3, 16, 2, 1) + bytes(range(32)) + b"tiny"
    info = parse_info(info_bytes)
    assert (info.input_size, info.output_size, info.arena_size) == (4, 3, 16)
    assert (info.units, info.gates, info.name) == (2, 1, "tiny")
    assert info.plan_sha256 == bytes(range(32)).hex()
    reply = parse_run(bytes([0, 2, 0, 1, 255, 128, 127]), info)
    assert (reply.status, reply.label, reply.decisions.tolist()) == (0, 2, [1])
    assert reply.logits.tolist() == [-1, -128, 127]
    unit, output = parse_unit(b"\1\0\xff\x01", info)
    assert (unit, output.tolist()) == (1, [-1, 1])
    for parse in (
        lambda: parse_info(info_bytes[:50]),
        lambda: parse_run(b"\0" * 8, info),
        lambda: parse_unit(b"\2\0", info),
        lambda: parse_unit(b"\0", info),
    ):
        with pytest.raises(ValueError, match=r"bytes"):
            parse()


def test_run_request() -> None:
    image = np.array([[1, -1], [0, -128]], np.int8)
    force = np.array([2, 0], np.uint8)
    assert run_request(image, None) == Frame(b"R", b"\x01\xff\x00\x80")
    assert run_request(image, force, SHOW) == Frame(b"V", b"\x01\xff\x00\x80\x02\x00")


def test_noise_that_looks_like_a_head_does_not_hide_the_frames_behind_it() -> None:
    head = b"CG" + struct.pack("<cBI", b"r", 0, 100_000)
    frames = [Frame(b"u", b"\0\0abc"), Frame(b"q")]
    decoder = Decoder()
    assert list(decoder.feed(head + b"".join(map(encode, frames)))) == frames
    assert decoder.skipped == head

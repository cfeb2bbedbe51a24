"""The wire protocol on the device's side: the stream application under the sanitizers."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c_programs import INCLUDES, compile_host, run_host
from cgate.host_tools.build import app_flags, sources
from cgate.host_tools.wire import Decoder, Frame, encode, parse_info, parse_run, parse_unit
from tiny import images, needs_host, write_bundle

INFO = Frame(b"I")
QUIT = Frame(b"Q")
BAD_TYPE, BAD_LENGTH, BAD_CRC = 1, 2, 3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_host()
    bundle = write_bundle(tmp_path_factory.mktemp("bundle"))
    flags = [*INCLUDES, f"-I{bundle / 'c'}", *app_flags("tiny")]
    return compile_host("stream", sources(bundle, "pipe"), *flags)


def talk(program: Path, data: bytes) -> list[Frame]:
    """All replies; whatever the program writes must be frames and nothing else."""
    decoder = Decoder()
    frames = list(decoder.feed(run_host(program, data)))
    assert not decoder.skipped
    return frames


def error(code: int) -> Frame:
    return Frame(b"e", bytes([code]))


def test_info(program: Path) -> None:
    (frame,) = talk(program, encode(INFO))
    info = parse_info(frame.payload)
    assert (info.abi, info.input_size, info.output_size, info.arena_size) == (1, 60, 3, 256)
    assert (info.units, info.gates, info.name) == (4, 1, "tiny")


def test_run_show_and_quit(program: Path) -> None:
    image = images(1)[0].tobytes()
    info = parse_info(talk(program, encode(INFO))[0].payload)
    data = encode(Frame(b"R", image)) + encode(Frame(b"V", image + b"\1")) + encode(QUIT)
    frames = talk(program, data + encode(INFO))
    assert [frame.type for frame in frames] == [b"r", b"u", b"u", b"u", b"u", b"r", b"q"]
    units = dict(parse_unit(frame.payload, info) for frame in frames[1:5])
    assert list(units) == [0, 1, 2, 3]
    reply = parse_run(frames[5].payload, info)
    assert reply.status == 0
    np.testing.assert_array_equal(reply.logits, units[3])
    assert reply.label == int(np.argmax(reply.logits))
    assert reply.decisions[0] == (units[1][0] > -7)


@pytest.mark.parametrize("force", [0, 1, 2])
def test_forced_gates_still_report_their_own_decision(program: Path, force: int) -> None:
    info = parse_info(talk(program, encode(INFO))[0].payload)
    for image in images(8):
        plain, forced = (
            talk(program, encode(Frame(b"V", image.tobytes() + extra)))
            for extra in (b"", bytes([force]))
        )
        own = parse_run(plain[-1].payload, info).decisions
        np.testing.assert_array_equal(parse_run(forced[-1].payload, info).decisions, own)
        ran = any(parse_unit(f.payload, info)[0] == 2 for f in forced[:-1])
        assert ran == (bool(own[0]) if force == 0 else force == 1)


def test_unknown_force_is_a_parameter_error(program: Path) -> None:
    info = parse_info(talk(program, encode(INFO))[0].payload)
    (frame,) = talk(program, encode(Frame(b"R", images(1)[0].tobytes() + b"\3")))
    assert parse_run(frame.payload, info).status == 3


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        (encode(Frame(b"X")), [error(BAD_TYPE)]),
        (encode(Frame(b"X", b"1234")), [error(BAD_TYPE)]),
        (encode(Frame(b"I", b"1")), [error(BAD_LENGTH)]),
        (encode(Frame(b"Q", b"1")), [error(BAD_LENGTH)]),
        (encode(Frame(b"R", bytes(59))), [error(BAD_LENGTH)]),
        (encode(Frame(b"R", bytes(62))), [error(BAD_LENGTH)]),
        (encode(INFO)[:-1] + b"\0", [error(BAD_CRC)]),
        (b"CGR\0\xff\xff\xff\xff", [error(BAD_LENGTH)]),
        (b"noise CC CGG", []),
        (b"C", []),
        (b"", []),
    ],
)
def test_bad_requests_are_answered_and_survived(
    program: Path, data: bytes, replies: list[Frame]
) -> None:
    assert talk(program, data) == replies
    if data != b"noise CC CGG":  # that one swallows what follows as its head
        frames = talk(program, data + encode(INFO) + encode(QUIT))
        assert [frame.type for frame in frames] == [*(f.type for f in replies), b"i", b"q"]


@st.composite
def garbage(draw: st.DrawFn) -> bytes:
    """Random bytes, damaged frames, and heads with any length."""
    parts = []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["noise", "frame", "damaged", "head"]))
        if kind == "noise":
            parts.append(draw(st.binary(max_size=40)))
        elif kind == "head":
            parts.append(
                b"CG"
                + draw(st.sampled_from([b"R", b"V", b"I"]))
                + draw(st.binary(min_size=5, max_size=5))
            )
        else:
            size = draw(st.sampled_from([0, 1, 59, 60, 61, 62, 200]))
            payload = draw(st.binary(min_size=size, max_size=size))
            frame = bytearray(
                encode(Frame(draw(st.sampled_from([b"R", b"V", b"I", b"Z"])), payload))
            )
            if kind == "damaged":
                frame[draw(st.integers(0, len(frame) - 1))] ^= draw(st.integers(1, 255))
            parts.append(bytes(frame))
    return b"".join(parts)


@settings(max_examples=150, deadline=None)
@given(data=garbage())
def test_garbage_never_breaks_it(program: Path, data: bytes) -> None:
    """Under the sanitizers: it ends cleanly, and every reply is a well-formed frame."""
    # Enough zeros to complete any frame that the garbage began, then a good request.
    frames = talk(program, data + bytes(80) + encode(INFO) + encode(QUIT))
    assert [frame.type for frame in frames[-2:]] == [b"i", b"q"]
    assert {frame.type for frame in frames} <= {b"i", b"q", b"r", b"u", b"e"}


def test_crc_is_the_standard_one(program: Path) -> None:
    """The device accepts zlib's CRC for payloads of every length up to the largest."""
    for size in range(60):
        payload = bytes(range(size))
        body = struct.pack("<cBI", b"Z", size, size) + payload
        data = b"CG" + body + struct.pack("<I", zlib.crc32(body))
        assert talk(program, data) == [error(BAD_TYPE)]

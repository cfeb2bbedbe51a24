"""MLPerf Tiny's protocol: as its runner speaks it, and as nobody should."""

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st

from c_programs import FIRMWARE, compile_host, run_host
from cgate.core.errors import CgateError
from cgate.core.plan import load_bundle
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.build import BAUD, ENERGY_BAUD, app_flags, build
from cgate.host_tools.runner import run
from pty_qemu import qemu_on_pty
from synthetic import random_images, small_network, write_checkpoint
from tiny import SHAPE, images, needs_host, needs_qemu, write_bundle

SIZE = math.prod(SHAPE)
SCALE = 0.1
PIXELS = [(image.astype(np.int16) + 128).astype(np.uint8).tobytes() for image in images(12)]
BOOT = ["m-timestamp-mode-performance", "m-lap-us-", "m-init-done", "m-ready"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_host()
    return write_bundle(tmp_path_factory.mktemp("mlperf") / "bundle")


def program(bundle: Path, app: str) -> Path:
    sources = [bundle / "c" / "tiny.c", *sorted((FIRMWARE / "src").rglob("*.c"))]
    sources += [FIRMWARE / "port" / "host" / "cg_host.c", FIRMWARE / "apps" / "mlperf" / "main.c"]
    flags = [f"-I{bundle / 'c'}", *app_flags("tiny", app, SCALE)]
    return compile_host(app, sources, *flags)


@pytest.fixture(scope="module")
def performance(bundle: Path) -> Path:
    return program(bundle, "mlperf")


def load(pixels: bytes, chunk: int = 31) -> str:
    parts = [pixels[i : i + chunk].hex() for i in range(0, len(pixels), chunk)]
    return f"db load {len(pixels)}%" + "".join(f"db {part}%" for part in parts)


def lines(data: bytes) -> list[str]:
    text = data.decode("ascii")
    assert text.endswith("\r\n")
    return text[:-2].split("\r\n")


def talk(program: Path, commands: str) -> list[str]:
    """What follows the boot messages."""
    answer = lines(run_host(program, commands.encode()))
    assert [re.sub(r"us-\d+", "us-", line) for line in answer[:4]] == BOOT
    return answer[4:]


def softmax(logits: Sequence[int]) -> list[float]:
    powers = [math.exp(SCALE * (logit - max(logits))) for logit in logits]
    return [power / sum(powers) for power in powers]


def test_an_inference(performance: Path, bundle: Path) -> None:
    expected = run(build(bundle, None, on="host"), images(12))
    for pixels, result in zip(PIXELS, expected, strict=True):
        answer = talk(performance, load(pixels) + "infer 3 2%")
        assert answer[0] == f"m-[Expecting {SIZE} bytes]"
        at = answer.index("m-load-done")
        assert [re.sub(r"us-\d+", "us-", line) for line in answer[at + 2 : -2]] == [
            "m-warmup-start-2",
            "m-warmup-done",
            "m-infer-start-3",
            "m-lap-us-",
            "m-lap-us-",
            "m-infer-done",
        ]
        assert answer[-1] == "m-ready"
        found = re.fullmatch(r"m-results-\[([0-9.,]+)\]", answer[-2])
        assert found
        shares = [float(word) for word in found[1].split(",")]
        assert shares == pytest.approx(softmax(result.logits.tolist()), abs=0.00051)
        assert int(np.argmax(shares)) == result.label or max(shares) == shares[result.label]


def test_what_the_runner_asks_first(performance: Path) -> None:
    answer = talk(performance, "name%profile%timestamp%help%db print%")
    assert answer[:2] == ["m-name-dut-[cgate]", "m-ready"]
    assert answer[2:5] == [
        "m-profile-[ULPMark for tinyML Firmware V0.0.1]",
        "m-model-[tiny]",
        "m-ready",
    ]
    assert re.fullmatch(r"m-lap-us-\d+", answer[5])
    assert answer.count("m-ready") == 5


def test_bytes_come_back(performance: Path) -> None:
    answer = talk(performance, load(PIXELS[0]) + "db print%")
    printed = [line[len("m-buffer-") :] for line in answer if line.startswith("m-buffer-")]
    assert bytes.fromhex("".join(printed).replace("-", "")) == PIXELS[0]
    assert all(len(line) == 23 for line in printed[:-1])


def test_energy_mode_makes_edges(bundle: Path) -> None:
    """One at the start, one before and one after the inferences; no times."""
    import subprocess

    done = subprocess.run(
        [program(bundle, "mlperf-energy")],
        input=(load(PIXELS[0], 26) + "infer 2 0%").encode(),
        capture_output=True,
        check=True,
    )
    assert lines(done.stdout)[0] == "m-timestamp-mode-energy"
    assert b"m-lap-us" not in done.stdout
    assert done.stderr == b"cgate edge\n" * 3


@pytest.mark.parametrize(
    ("commands", "error"),
    [
        ("%", "Empty command"),
        ("   %", "Empty command"),
        ("nonsense%", "Unknown command: nonsense"),
        ("x" * 81 + "%", "Command too long"),
        ("x" * 5000 + "%", "Command too long"),
        ("na\x01me%", "Invalid character"),
        ("db%", "Command 'db' requires a subcommand"),
        ("db load%", "Command 'db load' requires the # of bytes"),
        ("db load -1%", "Command 'db load' requires the # of bytes"),
        (f"db load {2**32 + SIZE}%", "Command 'db load' requires the # of bytes"),
        ("db load 0%", f"The input has {SIZE} bytes"),
        (f"db load {SIZE + 1}%", f"The input has {SIZE} bytes"),
        ("db 00%", "No 'db load' before"),
        (f"db load {SIZE}%db 0%", "Insufficent number of hex digits"),
        (f"db load {SIZE}%db 0g%", "Invalid hex digit"),
        (f"db load {SIZE}%db 00 00%", "Too many words"),
        (f"db load {SIZE}%db {'00' * 31}%db {'00' * 31}%", "More bytes than 'db load' said"),
        (load(PIXELS[0]) + "db 00%", "No 'db load' before"),
        ("infer 1 0%", "No input is loaded"),
        (f"db load {SIZE}%db 00%infer 1 0%", "No input is loaded"),
        (load(PIXELS[0]) + "infer 0%", "Inference iterations must be >0"),
        (load(PIXELS[0]) + "infer 1 x%", "Inference warmup must be >=0"),
        (load(PIXELS[0]) + "infer 1 99999999999%", "Inference warmup must be >=0"),
        (load(PIXELS[0]) + "infer 1 1 1%", "Too many words"),
        ("results%", "No results yet"),
    ],
)
def test_what_is_rejected(performance: Path, commands: str, error: str) -> None:
    answer = talk(performance, commands + load(PIXELS[1]) + "infer 1 0%")
    assert [line for line in answer if line.startswith("e-")] == [f"e-[{error}]"]
    assert answer[-2].startswith("m-results-[")
    assert answer.count("m-ready") == (commands + load(PIXELS[1])).count("%") + 1


COMMANDS = st.sampled_from(
    [b"name%", b"db%", b"db load ", b"db ", b"infer ", b"60", b"%", b" ", b"db print%", b"results%"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(COMMANDS | st.binary(max_size=120).map(lambda b: b.replace(b"infer", b""))).map(
        b"".join
    )
)
def test_garbage_never_breaks_it(performance: Path, garbage: bytes) -> None:
    """Under the sanitizers: clean lines only, and afterwards it works as before."""
    # A long run is legitimate; here nobody waits for one.
    garbage = re.sub(rb"infer +\d{3,}", b"infer 2", garbage)
    data = garbage + b"%" + (load(PIXELS[2]) + "infer 1 0%").encode()
    out = run_host(performance, data)
    assert out.isascii()
    answer = lines(out)
    assert answer[-2].startswith("m-results-[") and answer[-1] == "m-ready"
    assert answer.count("m-ready") == data.count(b"%") + 1


class Runner:
    """The device side of MLCommons' runner: one command, then lines until m-ready."""

    def __init__(self, port: str, baud: int) -> None:
        self.port = serial.Serial(port, baud, timeout=0.1)

    def send(self, command: str, timeout_s: float = 30.0) -> list[str]:
        self.port.write(command.encode() + b"%")
        data, deadline = b"", time.monotonic() + timeout_s
        while not data.endswith(b"m-ready\r\n"):
            assert time.monotonic() < deadline, data
            data += self.port.read(1024)
        return lines(data)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlperf-qemu")
    write_checkpoint(folder / "checkpoint", small_network())
    export_checkpoint(folder / "checkpoint", folder / "bundle", find_target("netduinoplus2"))
    return folder / "bundle"


@pytest.mark.qemu
@pytest.mark.parametrize(("app", "baud"), [("mlperf", BAUD), ("mlperf-energy", ENERGY_BAUD)])
def test_the_runner_drives_a_chip(exported: Path, tmp_path: Path, app: str, baud: int) -> None:
    """As `main.py` does it, over QEMU's UART on a pseudo-terminal; the answers are the plan's."""
    needs_qemu()
    target = find_target("netduinoplus2")
    built = build(exported, target, io="uart", app=app)
    pictures = random_images(small_network(), 3, 5)
    bundle = load_bundle(exported)
    expected = reference.run(bundle.plan, bundle.weights, reference.to_input(pictures))
    with qemu_on_pty(target, built.program, tmp_path) as (port, _):
        runner = Runner(port, baud)
        # What the program says when it starts may still arrive; the runner asks up to three times.
        assert any("m-name-dut-[cgate]" in runner.send("name") for _ in range(3))
        assert any(line.startswith("m-model-[") for line in runner.send("profile"))
        for picture, row in zip(pictures, expected.logits, strict=True):
            data, chunk = picture.tobytes(), 31 if app == "mlperf" else 26
            runner.send(f"db load {len(data)}")
            for i in range(0, len(data), chunk):
                answer = runner.send(f"db {data[i : i + chunk].hex()}")
            assert answer[0] == "m-load-done"
            answer = runner.send("infer 3 1")
            laps = [line for line in answer if line.startswith("m-lap-us-")]
            assert len(laps) == (2 if app == "mlperf" else 0)
            shares = [float(word) for word in answer[-2][len("m-results-[") : -1].split(",")]
            scale = bundle.plan.tensor(bundle.plan.output).scale
            powers = np.exp(float(scale) * (row.astype(float) - row.max()))
            assert shares == pytest.approx((powers / powers.sum()).tolist(), abs=0.00051)


def test_energy_mode_needs_a_pin(bundle: Path) -> None:
    with pytest.raises(CgateError, match="no pin that could mark a power window"):
        build(bundle, find_target("cortex-m4"), io="uart", app="mlperf-energy")
    with pytest.raises(CgateError, match="talks over a UART"):
        build(bundle, find_target("cortex-m4"), app="mlperf")

"""The firmware's wire protocol under fuzzers and sanitizers, with the corpus of tests/fuzz.

libFuzzer where clang has it; a small coverage-guided driver of our own (driver.c) with GCC
everywhere.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from c_programs import INCLUDES, SANITIZE, STRICT
from cgate.host_tools.build import app_flags
from cgate.host_tools.toolchain import HOST_CC, find, firmware_folder
from cgate.host_tools.wire import Frame, encode
from fuzzing import CORPUS, SECONDS
from tiny import images, needs_host, write_bundle

HERE = Path(__file__).parent
RUNS = 8000
LARGEST = "-max_len=1024"


def flags(folder: Path) -> list[str]:
    return [*STRICT, *SANITIZE, *INCLUDES, f"-I{folder / 'bundle' / 'c'}", *app_flags("tiny")]


def program_sources(folder: Path) -> list[Path]:
    """The application, the library and the model: what is fuzzed."""
    bundle = write_bundle(folder / "bundle")
    library = sorted((firmware_folder() / "src").rglob("*.c"))
    return [HERE / "app.c", *library, *sorted((bundle / "c").glob("*.c"))]


def starts(folder: Path) -> list[Path]:
    """The corpus, and one good request of every kind that depends on the model's shape."""
    image = images(1)[0].tobytes()
    requests = [(b"I", b""), (b"R", image), (b"V", image + b"\1"), (b"T", image), (b"Q", b"")]
    (folder / "raw").write_bytes(b"\1" + b"".join(encode(Frame(*each)) for each in requests))
    (folder / "listed").write_bytes(
        b"\0" + b"".join(t + b"\0" + len(p).to_bytes(2, "little") + p for t, p in requests)
    )
    return [*sorted((CORPUS / "wire").iterdir()), folder / "raw", folder / "listed"]


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Stdout and stderr; where it breaks, the test shows the input that did it."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        found = [*folder.glob("crash*"), *folder.glob("timeout-*"), *folder.glob("leak-*")]
        inputs = ", ".join(path.read_bytes().hex() for path in found)
        pytest.fail(f"input {inputs} (keep it in {CORPUS / 'wire'})\n{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def test_with_the_driver(tmp_path: Path) -> None:
    needs_host()
    compiler, sources = find(HOST_CC), program_sources(tmp_path)
    # What is compiled without coverage: it reports, and is not to be reported.
    for name in ("driver", "wire"):
        command: list[str | Path] = [
            compiler,
            *flags(tmp_path),
            "-c",
            HERE / f"{name}.c",
            "-o",
            f"{name}.o",
        ]
        subprocess.run(command, cwd=tmp_path, check=True)
    command = [compiler, *flags(tmp_path), "-fsanitize-coverage=trace-pc", *sources]
    subprocess.run([*command, "driver.o", "wire.o", "-o", "fuzz"], cwd=tmp_path, check=True)
    runs = RUNS if not SECONDS else int(SECONDS * 5000)
    run(["./fuzz", str(runs), "0", *starts(tmp_path)], tmp_path)
    # That the driver finds its way at all: from nothing to a request that is answered, and more.
    said = run(["./fuzz", str(RUNS), "1"], tmp_path)
    assert int(said.split()[0]) >= 5


def test_with_libfuzzer(tmp_path: Path) -> None:
    clang = shutil.which("clang")
    hint = "sudo apt-get install --no-install-recommends clang libclang-rt-dev"
    if clang is None:
        pytest.skip(f"clang is missing: {hint}")
    sources = [*program_sources(tmp_path), HERE / "wire.c"]
    command: list[str | Path] = [
        clang,
        *flags(tmp_path),
        "-fsanitize=fuzzer",
        *sources,
        "-o",
        "fuzz",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "libclang_rt" in done.stderr:
        pytest.skip(f"clang's libFuzzer and sanitizers are missing: {hint}")
    assert done.returncode == 0, done.stderr
    (tmp_path / "corpus").mkdir()
    for path in starts(tmp_path):
        shutil.copy(path, tmp_path / "corpus")
    budget = f"-max_total_time={SECONDS:.0f}" if SECONDS else f"-runs={RUNS}"
    run(["./fuzz", budget, "-seed=1", LARGEST, "corpus"], tmp_path)

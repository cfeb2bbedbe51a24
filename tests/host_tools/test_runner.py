"""Running a small hand-written network on the host and on every emulated target."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cgate.core.errors import EXIT_TARGET_FAILED, EXIT_TOOL_MISSING, EXIT_USAGE, CgateError
from cgate.core.targets import find_target
from cgate.host_tools.build import build
from cgate.host_tools.runner import Result, Session, run
from tiny import images, needs_host, needs_qemu, write_bundle

TARGETS = [
    "mps2-an385",
    "mps2-an386",
    "mps2-an500",
    "mps2-an505",
    "mps3-an547",
    "netduinoplus2",
]
IMAGES = images(24)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_host()
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def on_host(bundle: Path) -> Sequence[Result]:
    return run(build(bundle, None, on="host"), IMAGES, jobs=1)


def same(left: Sequence[Result], right: Sequence[Result]) -> bool:
    return len(left) == len(right) and all(
        a.label == b.label
        and a.logits.tolist() == b.logits.tolist()
        and a.decisions.tolist() == b.decisions.tolist()
        for a, b in zip(left, right, strict=True)
    )


def test_the_images_use_both_routes(on_host: Sequence[Result]) -> None:
    opened = [int(result.decisions[0]) for result in on_host]
    assert 0 < sum(opened) < len(opened)
    assert len({result.label for result in on_host}) > 1
    assert all(result.instructions is None and result.outputs is None for result in on_host)


def test_the_number_of_processes_does_not_matter(bundle: Path, on_host: Sequence[Result]) -> None:
    built = build(bundle, None, on="host")
    assert same(on_host, run(built, IMAGES, jobs=3))
    assert same(on_host, run(built, IMAGES[::-1], jobs=2)[::-1])
    assert run(built, IMAGES[:0]) == []


def test_show_gives_the_output_of_every_unit_that_ran(bundle: Path) -> None:
    for result in run(build(bundle, None, on="host"), IMAGES, show=True, jobs=1):
        assert result.outputs is not None
        assert (2 in result.outputs) == bool(result.decisions[0])
        assert [len(result.outputs[unit]) for unit in (0, 1, 3)] == [120, 1, 3]
        assert result.outputs[3].tolist() == result.logits.tolist()


def test_gates_can_be_forced_for_all_or_per_image(bundle: Path) -> None:
    built = build(bundle, None, on="host")
    opened, shut = (run(built, IMAGES, gates=gates, show=True) for gates in ("open", "shut"))
    assert all(r.outputs is not None and 2 in r.outputs for r in opened)
    assert all(r.outputs is not None and 2 not in r.outputs for r in shut)
    pattern = np.array([[1 + i % 2] for i in range(len(IMAGES))], np.uint8)
    mixed = run(built, IMAGES, gates=pattern, jobs=2)
    assert same(mixed[::2], opened[::2])
    assert same(mixed[1::2], shut[1::2])


@pytest.mark.qemu
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_answers_as_the_host(
    name: str, bundle: Path, on_host: Sequence[Result]
) -> None:
    needs_qemu()
    results = run(build(bundle, find_target(name)), IMAGES, jobs=2)
    assert same(results, on_host)
    for result in results:
        assert result.instructions is not None and result.total is not None
        # A body that is skipped is not there; all others always are.
        assert (result.instructions > 0).tolist() == [True, True, bool(result.decisions[0]), True]
        assert 0 < result.total - result.instructions.sum() < 150


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["mps2-an386", "netduinoplus2"])
def test_a_serial_line_answers_as_semihosting(
    name: str, bundle: Path, on_host: Sequence[Result]
) -> None:
    needs_qemu()
    serial = run(build(bundle, find_target(name), io="uart"), IMAGES, jobs=1)
    assert same(serial, on_host)
    semihosting = run(build(bundle, find_target(name)), IMAGES, jobs=1)
    assert [r.total for r in serial] == [r.total for r in semihosting]


@pytest.mark.qemu
def test_a_skipped_body_costs_nothing(bundle: Path) -> None:
    """Between open and shut the other units' counts are those of the same image."""
    needs_qemu()
    built = build(bundle, find_target("cortex-m4"))
    opened, shut = (run(built, IMAGES, gates=gates) for gates in ("open", "shut"))
    for a, b in zip(opened, shut, strict=True):
        assert a.instructions is not None and b.instructions is not None
        assert a.total is not None and b.total is not None
        assert b.instructions[2] == 0
        assert a.instructions[:2].tolist() == b.instructions[:2].tolist()
        glue_open = a.total - int(a.instructions.sum())
        glue_shut = b.total - int(b.instructions.sum())
        # What is left of a skipped body is a branch: it saves its hook's few instructions too.
        assert 0 <= glue_open - glue_shut < 20


@pytest.mark.qemu
def test_counts_do_not_depend_on_the_run(bundle: Path) -> None:
    needs_qemu()
    built = build(bundle, find_target("cortex-m4"))
    first, second = run(built, IMAGES, jobs=1), run(built, IMAGES[::-1], jobs=2)[::-1]
    assert [r.total for r in first] == [r.total for r in second]
    assert all(
        a.instructions is not None
        and b.instructions is not None
        and a.instructions.tolist() == b.instructions.tolist()
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.qemu
@pytest.mark.parametrize("name", TARGETS)
def test_the_stack_bound_holds(name: str, bundle: Path) -> None:
    """The start-up code paints the stack and says at exit how deep it went."""
    needs_qemu()
    built = build(bundle, find_target(name))
    with Session(built) as session:
        info = session.info()
        for image in IMAGES[:4]:
            session.run(info, image, None, show=True, timeout_s=60)
        session.finish()
        text = session.messages()
    match = re.search(r"cgate stack: ([0-9a-f]{8})", text)
    assert match is not None, text
    assert built.stack is not None
    assert 100 <= int(match[1], 16) <= built.stack


def failing(folder: Path, inject: str, target: str, io: str = "semihosting") -> CgateError:
    """The error of a network whose body does `inject`."""
    needs_qemu()
    built = build(write_bundle(folder, inject=inject), find_target(target), io=io)
    with pytest.raises(CgateError) as caught:
        run(built, IMAGES, gates="open", jobs=1, timeout_s=60)
    assert caught.value.code == EXIT_TARGET_FAILED
    return caught.value


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("target", "io"),
    [(name, "semihosting") for name in TARGETS]
    + [("mps2-an386", "uart"), ("netduinoplus2", "uart")],
)
def test_a_fault_names_the_unit_the_function_and_the_address(
    target: str, io: str, tmp_path: Path
) -> None:
    error = failing(tmp_path, "*(volatile int *)0xf0000000 = 1;", target, io)
    first, registers, status = error.message.split("\n")
    assert first.startswith("image 0: BusFault in unit b0.body (2) at tiny_run (tiny.c:")
    assert re.search(r"pc=[0-9a-f]{8}", registers)
    assert "bfar=f0000000" in status


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["netduinoplus2", "cortex-m33"])
def test_an_undefined_instruction_and_a_stack_overflow(target: str, tmp_path: Path) -> None:
    error = failing(tmp_path / "udf", '__asm volatile("udf #1");', target)
    assert "UsageFault in unit b0.body (2)" in error.message
    overflow = '__asm volatile("1: push {r0-r7}\\n\\tb 1b");'
    error = failing(tmp_path / "overflow", overflow, target)
    assert "Fault in unit b0.body (2)" in error.message


@pytest.mark.qemu
def test_cortex_m0plus_has_no_unaligned_accesses(tmp_path: Path) -> None:
    """Nor has the larger core that QEMU runs its code on, which could do them."""
    # Not in C: the compiler would take bytes for an address that it sees to be odd.
    store = '__asm volatile("str r0, [%0]" : : "l"(0x20000001) : "memory");'
    error = failing(tmp_path, store, "cortex-m0plus")
    assert "HardFault in unit b0.body (2)" in error.message


@pytest.mark.qemu
def test_an_endless_loop_is_a_timeout_that_names_the_unit(tmp_path: Path) -> None:
    needs_qemu()
    bundle = write_bundle(tmp_path, inject="for (volatile int i = 0; i < 1;) {\n }")
    built = build(bundle, find_target("cortex-m4"))
    with pytest.raises(CgateError) as caught:
        run(built, IMAGES, gates="open", jobs=2, timeout_s=1)
    assert caught.value.code == EXIT_TARGET_FAILED
    assert re.fullmatch(
        r"image \d+: no answer within 1 s in unit b0\.body \(2\)", caught.value.message
    )
    assert "--timeout" in caught.value.hint


def test_a_host_program_that_dies(tmp_path: Path) -> None:
    needs_host()
    bundle = write_bundle(tmp_path, inject="__builtin_trap();")
    with pytest.raises(CgateError, match="ended with exit code -") as caught:
        run(build(bundle, None, on="host"), IMAGES, gates="open", jobs=2)
    assert caught.value.code == EXIT_TARGET_FAILED


def test_a_kernel_that_refuses(tmp_path: Path) -> None:
    needs_host()
    bundle = write_bundle(tmp_path, inject="CG_TRY(CG_ERR_PARAM);")
    with pytest.raises(CgateError, match="a parameter is out of range"):
        run(build(bundle, None, on="host"), IMAGES, gates="open")


def test_bad_arguments(bundle: Path) -> None:
    built = build(bundle, None, on="host")
    for pictures, gates, text in (
        (IMAGES[:, :5], "learned", "an image has 50 bytes, the network takes 60"),
        (IMAGES, "ajar", "gates 'ajar' is none of learned, open, shut"),
    ):
        with pytest.raises(CgateError, match=re.escape(text)) as caught:
            run(built, pictures, gates=gates)
        assert caught.value.code == EXIT_USAGE
    with pytest.raises(CgateError, match="should be int8, are uint8"):
        run(built, IMAGES.view(np.uint8))


def test_a_program_of_another_plan(bundle: Path, tmp_path: Path) -> None:
    """C code and plan.json of different exports are noticed before the first image."""
    mixed = write_bundle(tmp_path)
    (mixed / "weights.npz").write_bytes(b"other")
    with pytest.raises(CgateError, match="C code and its plan differ"):
        run(build(mixed, None, on="host"), IMAGES)


def test_missing_qemu_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_qemu()
    built = build(bundle, find_target("cortex-m4"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CgateError) as caught:
        run(built, IMAGES)
    assert caught.value.code == EXIT_TOOL_MISSING


def running(program: Path) -> list[int]:
    """Process ids that run `program`."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "exe").resolve() == program:
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/exe").exists(), reason="lists processes in Linux's /proc")
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    needs_host()
    bundle = write_bundle(tmp_path, inject="for (volatile int i = 0; i < 1;) {\n }")
    built = build(bundle, None, on="host")
    # A shell that starts the tests in the background has them ignore SIGINT, and their children.
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path; import numpy as np\n"
        "from cgate.host_tools.build import build; from cgate.host_tools.runner import run\n"
        "built = build(Path(sys.argv[1]), None, on='host')\n"
        "run(built, np.zeros((4, 6, 5, 2), np.int8), gates='open', jobs=2, timeout_s=600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, bundle],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: len(running(built.program)) == 2)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert running(built.program) == []


def test_an_exception_ends_the_processes(bundle: Path) -> None:
    """Whatever interrupts a session, its process is gone afterwards."""
    built = build(bundle, None, on="host")
    session = Session(built)
    with pytest.raises(KeyboardInterrupt), session:
        session.info()
        process = session._process
        raise KeyboardInterrupt
    assert isinstance(process, subprocess.Popen)
    assert process.returncode is not None

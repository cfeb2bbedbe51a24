"""Running images through a built program, under QEMU or on this computer."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import selectors
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import EXIT_TARGET_FAILED, EXIT_TOOL_MISSING, CgateError
from cgate.core.progress import Progress, Silent
from cgate.core.targets import Target
from cgate.host_tools.build import Build
from cgate.host_tools.plugin import (
    INFERENCE,
    Counts,
    flash_option,
    plugin_library,
    read_counts,
)
from cgate.host_tools.toolchain import ARM_ADDR2LINE, QEMU, find
from cgate.host_tools.wire import (
    ERROR_TEXTS,
    INFO,
    NO_COUNTER,
    QUIT,
    RUN,
    SHOW,
    STATUS_TEXTS,
    TIME,
    WHOLE,
    Decoder,
    Frame,
    Info,
    encode,
    parse_cycles,
    parse_info,
    parse_run,
    parse_unit,
    run_request,
)

ABI_VERSION = 1
START_TIMEOUT_S = 60.0
"""Seconds from starting a program to its first answer; generous, for machines under load."""

FORCE = {"learned": 0, "open": 1, "shut": 2}
COUNTS = "counts"
_TICK_S = 0.1
_UART_READY = b"cgate ready"
_FAULT_END = b"cgate end"
_FAULT = re.compile(r"cgate fault: (.*)\n(r0=[^\n]*)\n(cfsr=[^\n]*)\n")


@dataclass(frozen=True)
class Result:
    """One inference.

    Args:
        label: number of the class with the greatest logit, the first of equals.
        decisions: uint8 [gates], 1 where the gate itself said open, even if it was forced.
        logits: int8 [classes].
        instructions: int64 [units], executed instructions, 0 where a unit did not run. None on
            the host, and with `show`, whose extra work would be counted too.
        total: instructions of the whole inference; None like `instructions`.
        outputs: what every unit that ran left, flat int8 by unit index; None without `show`.
        cycles: int64 [units + 1], cycles that the board's own counter (DWT) measured, per unit, 0
            where it did not run, and last of the whole inference. None where nothing measures.
        modelled: int64 [units + 1, 2], in the same order: cycles that the plugin's model gives,
            and how many of them are waiting for the flash. None like `instructions`, and for a
            core without a model.
        classes: int64 [units + 1, plugin.CLASSES], in the same order: the instructions by class.
            None like `instructions`.
    """

    label: int
    decisions: NDArray[np.uint8]
    logits: NDArray[np.int8]
    instructions: NDArray[np.int64] | None
    total: int | None
    outputs: Mapping[int, NDArray[np.int8]] | None
    cycles: NDArray[np.int64] | None = None
    modelled: NDArray[np.int64] | None = None
    classes: NDArray[np.int64] | None = None


def qemu_command(target: Target, program: Path, io: str = "semihosting") -> list[str | Path]:
    """The command that boots `program`; the plugin's log becomes `counts` in the working folder.

    Args:
        io: "semihosting", which uses `requests` and `replies` in the working folder, or "uart",
            which is QEMU's stdin and stdout.

    Raises:
        CgateError: QEMU is missing, or has no such machine.
    """
    if not target.qemu_machine:
        raise CgateError(
            f"QEMU has no machine for {target.name}",
            "run on one that has, such as --target cortex-m4",
        )
    # A comma in a path would begin the next option.
    plugin = str(plugin_library()).replace(",", ",,")
    command: list[str | Path] = [find(QEMU), "-M", target.qemu_machine, "-nodefaults"]
    options = f"{plugin},out={COUNTS}{flash_option(target)}"
    command += ["-display", "none", "-kernel", program, "-plugin", options]
    if io == "uart":
        return [*command, "-chardev", "stdio,id=uart,signal=off", "-serial", "chardev:uart"]
    return [*command, "-semihosting-config", "enable=on,target=native"]


class _StoppedError(Exception):
    """Another process failed, or the user pressed Ctrl-C: give up quietly."""


class Session:
    """One running program and the stream of frames to and from it.

    A context manager: at its end the process is gone, whatever happened.
    """

    def __init__(self, build: Build, stop: threading.Event | None = None) -> None:
        self.build = build
        self.timed = False  # ask for cycles; goes back to False where there is no counter
        self._stop = stop or threading.Event()
        self._decoder = Decoder()
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._counts = Path()
        self._to = self._from = -1

    def __enter__(self) -> Session:
        """Start the program."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the program."""
        self.close()

    def _start(self) -> None:
        folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cgate-")))
        self._log = self._cleanup.enter_context((folder / "log").open("w+b"))
        self._counts = folder / COUNTS
        piped = self.build.io != "semihosting"
        if not piped:
            # Opened for both directions, so that neither end waits for the other to be there.
            for name in ("requests", "replies"):
                os.mkfifo(folder / name)
            self._to = os.open(folder / "requests", os.O_RDWR | os.O_NONBLOCK)
            self._cleanup.callback(os.close, self._to)
            self._from = os.open(folder / "replies", os.O_RDWR | os.O_NONBLOCK)
            self._cleanup.callback(os.close, self._from)
        self._process = subprocess.Popen(
            self._command(),
            cwd=folder,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else self._log,
            stderr=self._log,
        )
        if piped:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
            os.set_blocking(self._to, False)
            os.set_blocking(self._from, False)

    def _command(self) -> list[str | Path]:
        build = self.build
        if build.target is None:
            return [build.program]
        return qemu_command(build.target, build.program, build.io)

    def exchange(self, request: Frame, last: bytes, timeout_s: float) -> list[Frame]:
        """Send a request and collect the replies, up to one of type `last` or an error reply.

        Raises:
            CgateError: the program crashed, ended, or did not answer in time (exit code 4).
        """
        data = memoryview(encode(request))
        frames: list[Frame] = []
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            sending = False
            while True:
                if not sending and self._ready():
                    selector.register(self._to, selectors.EVENT_WRITE)
                    sending = True
                ended = self._ended()
                for key, _ in selector.select(0 if ended else _TICK_S):
                    if key.fd == self._to:
                        data = data[self._write(data) :]
                        if not data:
                            selector.unregister(self._to)
                        continue
                    for frame in self._decoder.feed(self._read()):
                        frames.append(frame)
                        if frame.type in (last, b"e"):
                            return frames
                if _FAULT_END in self._decoder.skipped or ended:
                    raise self._crash()
                if self._stop.is_set():
                    raise _StoppedError
                if time.monotonic() > deadline:
                    raise self._timeout(timeout_s)

    def _ended(self) -> bool:
        """Whether the process that runs the program, if there is one, has ended."""
        return self._process is not None and self._process.poll() is not None

    def _ready(self) -> bool:
        """Whether the program listens; a serial line loses what comes too early."""
        return self.build.io != "uart" or _UART_READY in self._decoder.skipped

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._to, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # the program is about to be seen as ended

    def _read(self) -> bytes:
        try:
            return os.read(self._from, 1 << 16)
        except BlockingIOError:
            return b""

    def info(self) -> Info:
        """What the program says about its model.

        Raises:
            CgateError: it does not start, or it was not built from this bundle.
        """
        (frame,) = self.exchange(Frame(INFO), b"i", START_TIMEOUT_S)
        try:
            info = parse_info(frame.payload)
        except ValueError as error:
            raise self._garbage(str(error)) from error
        if info.abi != ABI_VERSION or info.plan_sha256 != self.build.plan_sha256:
            raise CgateError(
                f"the bundle's C code and its plan differ: plan {self.build.plan_sha256[:12]}, "
                f"code {info.plan_sha256[:12]} (ABI {info.abi})",
                "export the bundle again",
            )
        return info

    def run(
        self,
        info: Info,
        image: NDArray[np.int8],
        force: NDArray[np.uint8] | None,
        *,
        show: bool,
        timeout_s: float,
    ) -> Result:
        """One inference; instructions are known only when the session has ended (`finish`)."""
        type = SHOW if show else TIME if self.timed else RUN
        frames = self.exchange(run_request(image, force, type), b"r", timeout_s)
        if self.timed and frames[-1] == Frame(b"e", bytes([NO_COUNTER])):
            self.timed = False
            return self.run(info, image, force, show=show, timeout_s=timeout_s)
        outputs: dict[int, NDArray[np.int8]] = {}
        cycles = np.zeros(info.units + 1, np.int64)
        try:
            for frame in frames[:-1]:
                if type == SHOW and frame.type == b"u":
                    unit, output = parse_unit(frame.payload, info)
                    outputs[unit] = output
                elif type == TIME and frame.type == b"t":
                    unit, count = parse_cycles(frame.payload, info)
                    cycles[-1 if unit == WHOLE else unit] = count
                else:
                    raise ValueError(f"a frame of type {frame.type!r}")
            if frames[-1].type == b"e":
                code = int.from_bytes(frames[-1].payload, "little")
                raise ValueError(f"it refused the request: {ERROR_TEXTS.get(code, code)}")
            reply = parse_run(frames[-1].payload, info)
        except ValueError as error:
            raise self._garbage(str(error)) from error
        if reply.status != 0:
            raise CgateError(
                f"the inference failed: {STATUS_TEXTS.get(reply.status, reply.status)}",
                "export and build the bundle again",
                EXIT_TARGET_FAILED,
            )
        return Result(
            reply.label,
            reply.decisions,
            reply.logits,
            None,
            None,
            outputs if show else None,
            cycles if type == TIME else None,
        )

    def finish(self) -> Counts | None:
        """Ask the program to end, and return what the plugin counted; None on the host."""
        self.exchange(Frame(QUIT), b"q", START_TIMEOUT_S)
        self._end(wait_s=0.0 if self.build.io == "uart" else START_TIMEOUT_S)
        if self.build.target is None:
            return None
        return read_counts(self._counts, len(self.build.units))

    def messages(self) -> str:
        """Everything the program and QEMU said for people so far."""
        text = bytes(self._decoder.skipped)
        if self._log is not None:
            self._log.seek(0)
            text = self._log.read() + text
        return text.decode("utf-8", "replace")

    def _end(self, wait_s: float) -> None:
        """Wait for the process, then press: QEMU writes the counts when it is terminated."""
        process = self._process
        if process is None:
            return
        for action in (None, process.terminate, process.kill):
            if action is not None:
                action()
            try:
                process.wait(wait_s if action is None else 5.0)
                return
            except subprocess.TimeoutExpired:
                continue

    def close(self) -> None:
        """End the process at once and remove its files."""
        if self._process is not None:
            self._end(0.0)
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
            self._process = None
        self._cleanup.close()
        self._log = None

    def _place(self) -> str:
        """The unit in which the program was, from the regions that the plugin saw open."""
        if self.build.target is None:
            return ""
        try:
            open_ids = read_counts(self._counts, len(self.build.units)).open
        except CgateError:
            return ""
        units = [i for i in open_ids if i != INFERENCE]
        if units:
            return f" in unit {self.build.units[units[-1]]} ({units[-1]})"
        return " in an inference, outside all units" if open_ids else " outside an inference"

    def _timeout(self, timeout_s: float) -> CgateError:
        self._end(0.0)
        return CgateError(
            f"no answer within {timeout_s:g} s{self._place()}",
            "allow more time with --timeout SECONDS",
            EXIT_TARGET_FAILED,
        )

    def _garbage(self, what: str) -> CgateError:
        return CgateError(
            f"the program's answer makes no sense: {what}", "build again", EXIT_TARGET_FAILED
        )

    def _crash(self) -> CgateError:
        """Why the program ended, as well as it can be told."""
        self._end(0.0)
        text = self.messages()
        fault = _FAULT.search(text)
        if fault is not None:
            name, registers, status = (part.strip() for part in fault.groups())
            pc = re.search(r"pc=([0-9a-f]{8})", registers)
            return CgateError(
                f"{name}{self._place()}{self._function(pc[1] if pc else '')}\n"
                f"{registers}\n{status}",
                "",
                EXIT_TARGET_FAILED,
            )
        lines = text.strip().splitlines()
        # QEMU gives the reason first, and then all registers.
        fatal = next((i for i, line in enumerate(lines) if line.startswith("qemu: fatal")), None)
        tail = "\n".join(lines[-5:] if fatal is None else lines[fatal : fatal + 6])
        if self.build.target is not None and "Could not load plugin" in tail:
            return CgateError(
                f"this QEMU does not take cgate's plugin:\n{tail}",
                f"cgate needs QEMU {QEMU.wanted}, with TCG plugins: {QEMU.install}",
                EXIT_TOOL_MISSING,
            )
        return CgateError(
            f"the program ended with exit code {self._process and self._process.returncode}"
            f"{self._place()}" + (f":\n{tail}" if tail else ""),
            "",
            EXIT_TARGET_FAILED,
        )

    def _function(self, pc: str) -> str:
        """Function, file and line of an address: " at cg_conv2d_s8__ref (cg_conv2d_s8.c:60)"."""
        with contextlib.suppress(CgateError):
            result = subprocess.run(
                [find(ARM_ADDR2LINE), "-f", "-s", "-e", self.build.program, f"0x{pc}"],
                capture_output=True,
                text=True,
                check=False,
            )
            lines = result.stdout.split("\n")
            if result.returncode == 0 and len(lines) > 1 and not lines[0].startswith("?"):
                return f" at {lines[0]} ({lines[1].partition(' ')[0]})"
        return ""


def _forces(
    gates: str | NDArray[np.uint8], count: int, info: Info
) -> Iterator[NDArray[np.uint8] | None]:
    """What to do with the gates, per image."""
    if isinstance(gates, str):
        row = None if gates == "learned" else np.full(info.gates, FORCE[gates], np.uint8)
        return iter([row] * count)
    return iter(np.ascontiguousarray(gates, np.uint8))


def _modelled(counts: Counts) -> Sequence[NDArray[np.int64]]:
    """`Result.modelled` of each inference."""
    stalls = np.column_stack([counts.by_unit.stalls, counts.whole.stalls])
    running = np.column_stack([counts.by_unit.cycles, counts.whole.cycles])
    return list(np.stack([running + stalls, stalls], axis=-1))


def run(
    build: Build,
    images: NDArray[np.int8],
    *,
    gates: str | NDArray[np.uint8] = "learned",
    show: bool = False,
    jobs: int | None = None,
    timeout_s: float = 120.0,
    progress: Progress | None = None,
    open_session: Callable[[Build, threading.Event], Session] = Session,
    first: int = 0,
) -> list[Result]:
    """Run every image through the program, divided over several processes.

    Args:
        images: int8 [n, height, width, channels].
        gates: "learned", "open" or "shut" for all, or uint8 [n, gates] with 0 learned, 1 open,
            2 shut.
        show: also fetch the output of every unit that ran; nothing is counted then.
        jobs: processes; one per core if None.
        timeout_s: seconds that one image may take.
        open_session: makes the session of one process; another than QEMU's or the host's.
        first: number of the first image, for messages.

    Returns:
        One result per image, in their order. They depend on nothing but the image.

    Raises:
        CgateError: images of a wrong shape (2); QEMU is missing (3); the program crashed, hung or
            answered garbage (4).
    """
    if isinstance(gates, str) and gates not in FORCE:
        raise CgateError(f"gates {gates!r} is none of {', '.join(FORCE)}")
    if images.dtype != np.int8:
        raise CgateError(f"images should be int8, are {images.dtype}")
    progress = progress or Silent()
    progress.start(f"run on {'host' if build.target is None else build.target.name}", len(images))
    if len(images) == 0:
        return []
    workers = max(1, min(jobs or os.cpu_count() or 1, len(images)))
    stop, lock = threading.Event(), threading.Lock()
    bounds = np.linspace(0, len(images), workers + 1).astype(int)

    def work(begin: int, end: int) -> list[Result]:
        part = images[begin:end]
        rows = gates if isinstance(gates, str) else gates[begin:end]
        results: list[Result] = []
        with open_session(build, stop) as session:
            info = session.info()
            if part[0].size != info.input_size:
                raise CgateError(
                    f"an image has {part[0].size} bytes, the network takes {info.input_size}"
                )
            for i, force in enumerate(_forces(rows, len(part), info)):
                try:
                    results.append(
                        session.run(info, part[i], force, show=show, timeout_s=timeout_s)
                    )
                except CgateError as error:
                    raise CgateError(
                        f"image {first + begin + i}: {error.message}", error.hint, error.code
                    ) from error
                with lock:
                    progress.advance()
            counts = session.finish()
        if counts is None or show:
            return results
        if len(counts.total) != len(results):
            raise CgateError(
                f"{len(counts.total)} inferences were counted, {len(results)} were run",
                "build the bundle again",
                EXIT_TARGET_FAILED,
            )
        has_model = build.target is not None and build.target.has_cycle_model
        cycles = _modelled(counts) if has_model else [None] * len(results)
        return [
            replace(
                result,
                instructions=counts.units[i],
                total=int(counts.total[i]),
                modelled=cycles[i],
                classes=np.vstack([counts.by_unit.classes[i], counts.whole.classes[i]]),
            )
            for i, result in enumerate(results)
        ]

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, int(a), int(b)) for a, b in itertools.pairwise(bounds)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also on Ctrl-C: the workers see it within a tick and end their processes.
            stop.set()
        failures = [e for future in futures if (e := future.exception()) is not None]
    for failure in failures:
        if not isinstance(failure, _StoppedError):
            raise failure
    return [result for future in futures for result in future.result()]

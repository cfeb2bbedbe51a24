"""Power meters that are not there: each speaks its instrument's protocol over a pty or TCP.

`show(*parts)` measures parts of (watts, samples), with a falling edge between each two;
`lose(watts, samples)` measures and loses every sample; `unplug()` ends it.
"""

import contextlib
import json
import os
import pty
import queue
import select
import socket
import threading
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joulescope.v1.stream_buffer import StreamBuffer

VOLTS = 3.0


class OnPty:
    """Serves one end of a pseudo-terminal in a thread."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        self.port = os.ttyname(self.slave)
        self.work: queue.Queue[bytes | None] = queue.Queue()
        self.started = threading.Event()
        self.seen = b""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._in, self._out)]
        for thread in self._threads:
            thread.start()

    def heard(self, data: bytes) -> None:
        raise NotImplementedError

    def _in(self) -> None:
        while not self._stop.is_set():
            # Not blocked in a read: a terminal that somebody reads from stays open.
            if not select.select([self.master], [], [], 0.02)[0]:
                continue
            try:
                data = os.read(self.master, 4096)
            except OSError:
                return
            self.seen += data
            self.heard(data)

    def _out(self) -> None:
        while (data := self.work.get()) is not None:
            while data and not self._stop.is_set():
                if select.select([], [self.master], [], 0.02)[1]:
                    data = data[os.write(self.master, data[:1024]) :]
        self._stop.set()
        self._threads[0].join()
        os.close(self.slave)
        os.close(self.master)

    def unplug(self) -> None:
        """After all that was to be said."""
        self.work.put(None)


class Lpm01aInstrument(OnPty):
    """Text lines; a value per millisecond, a time stamp after every thousand."""

    rate_hz = 1000.0

    def __init__(self, refuse: str = "") -> None:
        self._refuse, self._line, self._time, self._events = refuse, b"", 0, 0
        super().__init__()

    def heard(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\r\n")
        for raw in lines:
            line = raw.decode()
            if self._refuse and line.startswith(self._refuse):
                self.work.put(f"PowerShield > error {line}\r\nError detail: bad\r\n".encode())
                continue
            said = "2.1.0\r\n" if line == "version" else ""
            self.work.put(f"PowerShield > {said}ack {line}\r\n\r\n".encode())
            if line == "start":
                self._stamp()
                self.started.set()

    def _stamp(self, full: int = 1) -> None:
        seconds, millis = divmod(self._time, 1000)
        text = f"\r\nTimeStamp: {seconds:03}s {millis:03}ms, buff {full:02}%\r\n"
        self.work.put(text.encode())

    def _values(self, watts: float, samples: int, lost: bool = False) -> None:
        mantissa, exponent = f"{watts / self.rate_hz:.3e}".split("e")
        value = f"{mantissa.replace('.', '')}{int(exponent) - 3:+03}\r\n".encode()
        for _ in range(samples):
            self._time += 1
            if not lost:
                self.work.put(value)
            if self._time % 1000 == 0:
                self._stamp()

    def show(self, *parts: tuple[float, int]) -> None:
        for number, (watts, samples) in enumerate(parts):
            if number:
                self.work.put(f"event {self._events:02} ris\r\n".encode())
                self._events += 1
            self._values(watts, samples)

    def lose(self, watts: float, samples: int) -> None:
        self._values(watts, samples, lost=True)


class Ppk2Instrument(OnPty):
    """Binary commands; samples of 32 bits: ADC, range, counter, logic."""

    rate_hz = 100_000.0
    resistance = 10.15  # of range 2

    def __init__(self, *, calibrated: bool = True) -> None:
        self._calibrated, self._counter, self._level = calibrated, 0, 1
        super().__init__()

    def heard(self, data: bytes) -> None:
        if b"\x19" in data and self._calibrated:
            lines = ["Calibrated: 0", "HW: 9173", "IA: 56", "R2: 10.15", "GS2: 0.0", "GI2: 1.0"]
            self.work.put("\n".join([*lines, "END"]).encode())
        if b"\x06" in data:
            self.started.set()

    def adc(self, watts: float) -> int:
        """The nearest that it can show; ADC steps of 4."""
        return round(watts / VOLTS * self.resistance * 163840 / 1.8 / 4)

    def exact(self, watts: float) -> float:
        return self.adc(watts) * 4 * 1.8 / 163840 / self.resistance * VOLTS

    def _words(self, adc: int, samples: int, range_: int = 2) -> bytes:
        counters = (self._counter + np.arange(samples)) % 64
        self._counter = (self._counter + samples) % 64
        words = adc | range_ << 14 | counters << 18 | self._level << 24
        return words.astype("<u4").tobytes()

    def show(self, *parts: tuple[float, int]) -> None:
        for number, (watts, samples) in enumerate(parts):
            if number:
                self._level = 0
                self.work.put(self._words(self.adc(watts), min(samples, 10)))
                self._level = 1
                samples = max(samples - 10, 0)
            self.work.put(self._words(self.adc(watts), samples))

    def lose(self, watts: float, samples: int) -> None:
        self._counter = (self._counter + samples) % 64

    def saturate(self, samples: int) -> None:
        self.work.put(self._words(0x3FFF, samples, 4))


class OtiiInstrument:
    """A server of JSON lines on TCP, with one Arc."""

    rate_hz = 4000.0

    def __init__(self, licenses: Sequence[dict[str, Any]] | None = None) -> None:
        self.licenses = licenses or [
            {"id": 1, "type": "Automation", "reserved_to": "", "available": True}
        ]
        self.power: list[tuple[float, float]] = []  # time, watts
        self.events: list[dict[str, Any]] = [{"timestamp": 0.0, "value": True}]
        self.seen: list[str] = []
        self._time = 0
        self.started = threading.Event()
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._peer: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            self._peer, _ = self._server.accept()
            self._say({"type": "information", "info": "connected", "data": {}})
            for line in self._peer.makefile("r", newline="\r\n"):
                request = json.loads(line)
                with self._lock:
                    answer = self._answer(request["cmd"], request.get("data", {}))
                reply = {"type": "response", "cmd": request["cmd"], "data": answer}
                self._say({**reply, "trans_id": request["trans_id"]})

    def _say(self, value: dict[str, Any]) -> None:
        assert self._peer is not None
        self._peer.sendall(json.dumps(value).encode() + b"\r\n")

    def _answer(self, command: str, data: dict[str, Any]) -> Any:
        self.seen.append(command)
        if command == "project_start_recording":
            self.started.set()
        channel = data.get("channel")
        if command == "recording_get_channel_data_count":
            return {"count": len(self.power if channel == "mp" else self.events)}
        if command == "recording_get_channel_data":
            first, end = data["index"], data["index"] + data["count"]
            if channel != "mp":
                return {"data_type": "digital", "values": self.events[first:end]}
            part = self.power[first:end]
            # One answer has one time: it ends where samples are missing.
            times = np.array([t for t, _ in part])
            jumps = np.flatnonzero(np.diff(times) > 1.5 / self.rate_hz)
            part = part[: jumps[0] + 1] if len(jumps) else part
            values = [watts for _, watts in part]
            return {"timestamp": part[0][0], "interval": 1 / self.rate_hz, "values": values}
        return {
            "otii_is_logged_in": {"logged_in": True},
            "otii_get_licenses": {"licenses": self.licenses},
            "otii_get_devices": {"devices": [{"device_id": "A1", "name": "Arc", "type": "Arc"}]},
            "otii_get_active_project": {"project_id": 1},
            "project_get_last_recording": {"recording_id": 2, "name": "r"},
            "arc_get_version": {"hw_version": "1", "fw_version": "1.2.1"},
        }.get(command, {})

    def show(self, *parts: tuple[float, int]) -> None:
        with self._lock:
            for number, (watts, samples) in enumerate(parts):
                if number:
                    now = self._time / self.rate_hz
                    self.events += [
                        {"timestamp": now, "value": False},
                        {"timestamp": now + 0.0001, "value": True},
                    ]
                self.power += [((self._time + i) / self.rate_hz, watts) for i in range(samples)]
                self._time += samples

    def lose(self, watts: float, samples: int) -> None:
        with self._lock:
            self._time += samples

    def unplug(self) -> None:
        assert self._peer is not None
        self._peer.shutdown(socket.SHUT_RDWR)
        self._server.close()


class JoulescopeInstrument:
    """A device whose messages, as the driver gives them, fill the library's own buffer."""

    rate_hz = 1000.0

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.stream_buffer: Any = None
        self.started = threading.Event()
        self._time, self._gone = 0, False

    def __str__(self) -> str:
        return "JS220-001234"

    def open(self) -> None:
        if self._gone:
            raise OSError("no such device")

    def close(self) -> None:
        self.stream_buffer = None

    def parameter_set(self, name: str, value: Any) -> None:
        self.parameters[name] = value

    def start(self) -> None:
        self.stream_buffer = StreamBuffer(60, int(self.rate_hz), self)
        for buffer in self.stream_buffer.buffers.values():
            buffer.active = True
        self.started.set()

    def stop(self) -> None:
        pass

    def _insert(self, watts: float, levels: np.ndarray[Any, Any]) -> None:
        count = len(levels)
        current = np.full(count, watts / VOLTS, np.float32)
        bits = np.packbits(levels.astype(np.uint8), bitorder="little")
        for (field, index), data in {
            (1, 0): current,
            (2, 0): np.full(count, VOLTS, np.float32),
            (3, 0): current * np.float32(VOLTS),
            (4, 0): np.full(count, 3, np.uint8),
            (5, 0): bits,
            (5, 1): bits,
        }.items():
            message = {"field_id": field, "index": index, "sample_id": self._time}
            rate = {"sample_rate": int(self.rate_hz), "decimate_factor": 1}
            self.stream_buffer.insert("s/x/!data", {**message, **rate, "data": data})
        self._time += count

    def show(self, *parts: tuple[float, int]) -> None:
        for number, (watts, samples) in enumerate(parts):
            levels = np.ones(samples, np.uint8)
            levels[: 8 if number else 0] = 0
            self._insert(watts, levels)

    def lose(self, watts: float, samples: int) -> None:
        self._time += samples

    def unplug(self) -> None:
        self._gone = True
        self.stream_buffer = None


def write_scope(path: Path, *, voltage: bool = False, gap: bool = False, windows: int = 5) -> float:
    """A scope's recording at 100 Hz: windows of 12 s at 20 mA; returns joules per window."""
    level = np.ones(300 + windows * 1500, np.uint8)
    current = np.full(len(level), 0.001)
    for i in range(windows):
        start = 200 + i * 1500
        level[[start, start + 1200]] = 0
        current[start : start + 1200] = 0.02
    times = np.arange(len(level)) / 100
    if gap:
        times[2500:] += 0.5
    lines = ["time, current ,edge" + (",u" if voltage else "")]
    lines += [
        f"{t:.6f},{i:.6f},{e * 3.3}" + (",3.000" if voltage else "")
        for t, i, e in zip(times, current, level, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return 0.02 * 3.0 * 12.0

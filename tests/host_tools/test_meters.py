"""Power meters against instruments that speak their protocols, faults included."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("joulescope", reason='joulescope is missing: pip install "cgate[power]"')

from cgate.core.errors import EXIT_CHECK_FAILED, EXIT_TARGET_FAILED, CgateError
from cgate.core.files import read_json
from cgate.host_tools.meters.csv_file import CsvMeter
from cgate.host_tools.meters.find import make_meter
from cgate.host_tools.meters.joulescope import Joulescope
from cgate.host_tools.meters.lpm01a import Lpm01a
from cgate.host_tools.meters.otii import Otii
from cgate.host_tools.meters.ppk2 import Ppk2
from cgate.host_tools.meters.record import joules_per_inference, read_record, record
from cgate.host_tools.meters.samples import Chunk, Meter, falling
from cgate.host_tools.meters.windows import Collector, Window
from instruments import (
    VOLTS,
    JoulescopeInstrument,
    Lpm01aInstrument,
    OtiiInstrument,
    Ppk2Instrument,
    write_scope,
)

IDLE = 0.002


@dataclass(frozen=True)
class Setup:
    """An instrument, what measures with it, and how long windows and pauses are in samples."""

    make: Callable[[], Any]
    meter: Callable[[Any], Meter]
    samples: int
    pause: int


SETUPS = {
    "lpm01a": Setup(Lpm01aInstrument, lambda i: Lpm01a(i.port, VOLTS), 2500, 1200),
    "ppk2": Setup(Ppk2Instrument, lambda i: Ppk2(i.port, VOLTS), 3000, 500),
    "otii": Setup(OtiiInstrument, lambda i: Otii(VOLTS, port=i.port), 4000, 400),
    "joulescope": Setup(JoulescopeInstrument, lambda i: Joulescope(i, i.rate_hz), 4000, 400),
}
EVERY = pytest.mark.parametrize("name", SETUPS)


class Bench:
    """One meter on one instrument; plays one scene per window."""

    def __init__(self, name: str, path: Path) -> None:
        self.setup, self.path = SETUPS[name], path
        self.instrument = self.setup.make()
        self.scenes: Iterator[Callable[[], None]] = iter(())
        self.played = 0

    def good(self, watts: float) -> Callable[[], None]:
        pause = (IDLE, self.setup.pause)
        return lambda: self.instrument.show(pause, (watts, self.setup.samples), pause)

    def faulty(self, watts: float) -> Callable[[], None]:
        """Loses some samples in the middle of the window."""

        def play() -> None:
            half, lost = self.setup.samples // 2, 40
            self.instrument.show((IDLE, self.setup.pause), (watts, half))
            self.instrument.lose(watts, lost)
            self.instrument.show((watts, half), (IDLE, self.setup.pause))

        return play

    def unplugged(self, watts: float) -> Callable[[], None]:
        def play() -> None:
            self.instrument.show((IDLE, self.setup.pause), (watts, self.setup.samples // 2))
            self.instrument.unplug()

        return play

    def trigger(self) -> None:
        self.played += 1
        next(self.scenes)()

    def measure(self, *scenes: Callable[[], None], wanted: int = 3) -> dict[str, Any]:
        self.scenes = iter(scenes)
        meter = self.setup.meter(self.instrument)
        return record(
            self.path,
            meter,
            provenance={"board": "test", "source": "measured"},
            iterations=7,
            wanted=wanted,
            min_seconds=0.02,
            trigger=self.trigger,
            timeout_s=20,
        )

    def joules(self, watts: float) -> float:
        exact = self.instrument.exact(watts) if hasattr(self.instrument, "exact") else watts
        return float(exact * self.setup.samples / self.instrument.rate_hz)


@pytest.fixture
def bench(name: str, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(name, tmp_path / "power.json")
    yield made
    with contextlib.suppress(OSError):  # the test may have done it
        made.instrument.unplug()


def joules(value: dict[str, Any]) -> list[float]:
    return [window["joules"] for window in value["windows"] if not window["fault"]]


@EVERY
def test_energy(bench: Bench) -> None:
    powers = (0.031, 0.012, 0.045)
    value = bench.measure(*(bench.good(watts) for watts in powers))
    assert joules(value) == pytest.approx([bench.joules(watts) for watts in powers], rel=1e-4)
    seconds = bench.setup.samples / bench.instrument.rate_hz
    assert [w["seconds"] for w in value["windows"]] == pytest.approx([seconds] * 3)
    assert value["joules_per_inference"] == pytest.approx(bench.joules(0.031) / 7, rel=1e-4)
    assert value["identity"] and value["source"] == "measured"
    assert read_record(bench.path) == value


@EVERY
def test_lost_samples_make_no_valid_window(bench: Bench) -> None:
    value = bench.measure(*map(bench.good, (0.03, 0.03)), bench.faulty(0.04), bench.good(0.02))
    faults = [window["fault"] for window in value["windows"]]
    assert [bool(fault) for fault in faults] == [False, False, True, False]
    assert "samples were lost" in faults[2]
    assert joules(value) == pytest.approx([bench.joules(w) for w in (0.03, 0.03, 0.02)], rel=1e-4)


@EVERY
def test_unplugged_in_mid_window_and_resumed(name: str, bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(CgateError) as caught:
        bench.measure(bench.good(0.03), bench.unplugged(0.04))
    assert caught.value.code == EXIT_TARGET_FAILED
    assert "has gone" in caught.value.message and "1 of 3 windows are in" in caught.value.message
    assert len(read_json(bench.path, "record")["windows"]) == 1
    assert joules_per_inference(read_record(bench.path)) is None

    again = Bench(name, bench.path)
    value = again.measure(again.good(0.01), again.good(0.02))
    again.instrument.unplug()
    assert again.played == 2
    assert joules(value) == pytest.approx([again.joules(w) for w in (0.03, 0.01, 0.02)], rel=1e-4)


@pytest.mark.parametrize("name", ["otii"])
def test_another_measurements_file_is_not_continued(bench: Bench) -> None:
    bench.measure(bench.good(0.03), wanted=1)
    text = bench.path.read_text().replace('"iterations": 7', '"iterations": 8')
    bench.path.write_text(text)
    with pytest.raises(CgateError, match="another iterations: 8"):
        bench.measure(bench.good(0.03), wanted=1)


@pytest.mark.parametrize("name", ["ppk2"])
def test_beyond_the_range(bench: Bench) -> None:
    def play() -> None:
        bench.instrument.show((IDLE, 500), (0.01, 1500))
        bench.instrument.saturate(100)
        bench.instrument.show((0.01, 1500), (IDLE, 500))

    value = bench.measure(play, bench.good(0.02), wanted=1)
    assert [w["fault"] for w in value["windows"]] == ["the power was beyond the meter's range", ""]


@pytest.mark.parametrize("name", ["lpm01a"])
def test_meter_that_gives_up(bench: Bench) -> None:
    def play() -> None:
        bench.instrument.show((IDLE, 1200), (0.02, 800))
        bench.instrument.work.put(b"error: overcurrent\r\n")

    with pytest.raises(CgateError, match="the LPM01A stopped: error: overcurrent"):
        bench.measure(play)


@pytest.mark.parametrize("name", ["lpm01a"])
@pytest.mark.parametrize("damage", [b"64X9-07\r\n", b"TimeStamp: 001s 000ms, buff 100%\r\n"])
def test_damaged_lines_and_a_full_buffer(bench: Bench, damage: bytes) -> None:
    def play() -> None:
        bench.instrument.show((IDLE, 1200), (0.02, 1200))
        bench.instrument.work.put(damage)
        bench.instrument.show((0.02, 1200), (IDLE, 1200))

    value = bench.measure(play, bench.good(0.02), wanted=1)
    assert "samples were lost" in value["windows"][0]["fault"] and not value["windows"][-1]["fault"]


def test_refusals() -> None:
    instrument = Lpm01aInstrument(refuse="volt")
    with pytest.raises(CgateError, match="refuses 'volt 3000m'"), Lpm01a(instrument.port, VOLTS):
        pass
    instrument.unplug()
    deaf = Ppk2Instrument(calibrated=False)
    with pytest.raises(CgateError, match="no calibration came"), Ppk2(deaf.port, VOLTS):
        pass
    deaf.unplug()
    with pytest.raises(CgateError, match="cannot open"), Ppk2("/dev/nothing-there", VOLTS):
        pass
    with pytest.raises(CgateError, match="the Otii has gone"), Otii(VOLTS, port=1):
        pass


@EVERY
def test_no_edge_at_all(bench: Bench) -> None:
    meter = bench.setup.meter(bench.instrument)
    play = lambda: bench.instrument.show((IDLE, 3000))  # noqa: E731
    with pytest.raises(CgateError, match="no falling edge came"):
        record(
            bench.path, meter, provenance={}, iterations=1, wanted=1, trigger=play, timeout_s=1.0
        )
    assert not bench.path.exists()


# ---------------------------------------------------------------------------- windows and files


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    st.lists(st.integers(0, 39), unique=True, max_size=6),
    st.lists(st.integers(1, 39), max_size=5),
)
def test_windows_do_not_depend_on_the_chunks(
    watts: list[int], edges: list[int], cuts: list[int]
) -> None:
    edges = sorted(edge for edge in edges if edge <= len(watts))
    bounds = [0, *sorted({cut for cut in cuts if cut < len(watts)}), len(watts)]
    collector, found = Collector(2.0, 0.0), []
    for start, end in itertools.pairwise(bounds):
        last = end == len(watts)
        part = tuple(e for e in edges if start <= e < end or (last and e == end))
        found += collector.feed(Chunk(start, np.array(watts[start:end], float), part))
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    assert found == [Window((b - a) / 2, sum(watts[a:b]) / 2, b - a) for a, b in pairs]
    assert collector.open == (len(edges) % 2 == 1)


def test_short_windows_are_not_valid() -> None:
    (window,) = Collector(10.0).feed(Chunk(0, np.ones(100), (0, 99)))
    assert "9.900 s is shorter than 10 s" in window.fault
    (window,) = Collector(10.0).feed(Chunk(0, np.ones(101), (0, 100)))
    assert window == Window(10.0, 10.0, 100)


def test_after_a_loss_no_pair_of_edges_can_be_trusted() -> None:
    collector = Collector(1.0, 0.0)
    (first,) = collector.feed(Chunk(0, np.ones(30), (5, 20)))
    (second,) = collector.feed(Chunk(40, np.ones(30), (45, 60)))
    assert not first.fault and "perhaps an edge" in second.fault
    collector.drop()
    (third,) = collector.feed(Chunk(70, np.ones(30), (75, 90)))
    assert not third.fault


@given(st.lists(st.integers(0, 1), min_size=1, max_size=30), st.sampled_from([None, 0, 1]))
def test_falling_edges(levels: list[int], before: int | None) -> None:
    past = [levels[0] if before is None else before, *levels[:-1]]
    expected = tuple(
        i + 7 for i, (a, b) in enumerate(zip(past, levels, strict=True)) if (a, b) == (1, 0)
    )
    assert falling(np.array(levels, np.uint8), 7, before) == expected


@pytest.mark.parametrize("voltage", [False, True])
def test_a_scopes_recording(voltage: bool, tmp_path: Path) -> None:
    expected = write_scope(tmp_path / "scope.csv", voltage=voltage)
    columns = "time,current,edge,u" if voltage else "time,current,edge"
    meter = make_meter(
        "csv", file=tmp_path / "scope.csv", columns=columns, volts=None if voltage else 3.0
    )
    value = record(tmp_path / "power.json", meter, provenance={}, iterations=10)
    assert joules(value) == pytest.approx([expected] * 5)
    assert value["joules_per_inference"] == pytest.approx(expected / 10)


def test_a_recording_with_a_gap_or_too_few_windows(tmp_path: Path) -> None:
    write_scope(tmp_path / "scope.csv", gap=True)
    meter = CsvMeter(tmp_path / "scope.csv", volts=3.0)
    with pytest.raises(CgateError, match="the data ends after 1 valid windows of 5") as caught:
        record(tmp_path / "power.json", meter, provenance={}, iterations=10)
    assert caught.value.code == EXIT_CHECK_FAILED and "an edge" in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,current,edge\n0,0,0\n", "no column 'time', only t, current, edge"),
        ("time,current,edge\n0,x,1\n", "line 2: could not convert"),
        ("time,current,edge\n0,1,1\n0,1\n", "line 3: list index out of range"),
        ("time,current,edge\n1,1,1\n0,1,1\n", "time should grow"),
        ("time,current,edge\n", "time should grow"),
        ("", "only nothing"),
    ],
)
def test_broken_recordings(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "scope.csv").write_text(text)
    with pytest.raises(CgateError) as caught:
        CsvMeter(tmp_path / "scope.csv", volts=3.0)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("name", "message"),
    [("ppk2", "the ppk2 supplies the board"), ("csv", "a recording needs its file")],
)
def test_meters_need_to_be_told(name: str, message: str) -> None:
    with pytest.raises(CgateError, match=message):
        make_meter(name)
    with pytest.raises(CgateError, match="is on a serial port"):
        make_meter("lpm01a", volts=3.0)


def test_time_is_spent_waiting_not_spinning() -> None:
    """Reading from a silent meter returns in time."""
    instrument = OtiiInstrument()
    with Otii(VOLTS, port=instrument.port) as meter:
        start = time.monotonic()
        assert meter.read(0.1) is None
        assert time.monotonic() - start < 3
    instrument.unplug()

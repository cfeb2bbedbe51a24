"""The report: its figures against a trace counted by hand, its page against the figures."""

import json
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.core.errors import CgateError
from cgate.core.files import write_json
from cgate.core.plan import load_bundle
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.page.png import png
from cgate.host_tools.report import write_report
from cgate.host_tools.summary import spread
from cgate.host_tools.trace import write_trace
from counted import make_trace
from synthetic import small_network, write_checkpoint

IMAGES = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_checkpoint(folder / "checkpoint", small_network(), seed=4)
    bundle = folder / "bundle"
    export_checkpoint(folder / "checkpoint", bundle, find_target("cortex-m4"))
    for name, gates, count in (("test", "learned", IMAGES), ("test-open", "open", 7)):
        write_trace(bundle / "runs" / name / "trace.json", make_trace(bundle, gates, count))
    return bundle


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


class Page(HTMLParser):
    """Texts of a page, and everything that would make a browser fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action") and value is not None:
                self.fetched.append(value)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(bundle: Path) -> Page:
    page = Page()
    page.feed((bundle / "report.html").read_text())
    return page


def test_figures_are_those_of_the_trace(bundle: Path) -> None:
    value = write_report(bundle)
    plan = load_bundle(bundle).plan
    trace, opened = make_trace(bundle, "learned", IMAGES), make_trace(bundle, "open", 7)
    assert trace.instructions is not None and opened.instructions is not None

    right = [a == b for a, b in zip(trace.classes, trace.labels, strict=True)]
    assert value["accuracy"]["correct"] == sum(right)
    share = sum(right) / IMAGES
    assert value["accuracy"]["standard_error"] == pytest.approx(
        (share * (1 - share) / IMAGES) ** 0.5
    )
    macs = [
        sum(unit.macs for unit, one in zip(plan.units, row, strict=True) if one)
        for row in trace.ran
    ]
    assert value["macs"]["executed"]["mean"] == pytest.approx(sum(macs) / IMAGES)
    assert value["macs"]["dense"] == sum(u.macs for u in plan.units if u.role != "gate")
    total = sorted(trace.instructions.total)
    assert value["instructions"]["mean"] == pytest.approx(sum(total) / IMAGES)
    assert (value["instructions"]["min"], value["instructions"]["max"]) == (total[0], total[-1])
    assert value["instructions"]["outside_units_mean"] == 77
    gates = sum(5 * unit.macs + 100 + unit.index for unit in plan.gates)
    full = opened.instructions.total[0]
    assert value["instructions"]["all_open"]["mean"] == full
    assert value["instructions"]["all_open"]["without_gates_mean"] == full - gates
    for i, gate in enumerate(value["gates"]):
        bits = [row[i] for row in trace.decisions]
        assert gate["open"] == pytest.approx(sum(bits) / IMAGES)
        for label, rate in enumerate(gate["by_class"]):
            of_class = [b for b, k in zip(bits, trace.labels, strict=True) if k == label]
            assert rate == (pytest.approx(sum(of_class) / len(of_class)) if of_class else None)
    assert sum(value["histogram"]["counts"]) == IMAGES
    assert sum(unit["macs_share"] for unit in value["units"]) == pytest.approx(1)
    assert sum(unit["instructions_share"] for unit in value["units"]) < 1
    costs = dict(zip(trace.images, trace.instructions.total, strict=True))
    assert [row["instructions"] for row in value["examples"]["cheapest"]] == total[:6]
    assert [row["instructions"] for row in value["examples"]["dearest"]] == total[::-1][:6]
    for row in value["examples"]["cheapest"] + value["examples"]["dearest"]:
        assert costs[row["image"]] == row["instructions"]


def test_page_shows_the_figures_of_the_json(bundle: Path) -> None:
    value = write_report(bundle)
    assert json.loads((bundle / "report.json").read_text()) == value
    text = " ".join(" ".join(read_page(bundle).text).split())
    wanted = [
        f"{100 * value['accuracy']['value']:.2f} %",
        f"{100 * value['macs']['share']:.1f} %",
        *(f"{value['macs']['executed'][key]:,.0f}" for key in ("mean", "p5", "p95", "min", "max")),
        *(f"{value['instructions'][key]:,.0f}" for key in ("mean", "p5", "p95", "min", "max")),
        *(f"{100 * gate['open']:.1f} %" for gate in value["gates"]),
        *(unit["name"] for unit in value["units"]),
        *(f"{unit['instructions']:,.0f}" for unit in value["units"] if unit["instructions"]),
        value["plan_sha256"],
    ]
    for figure in wanted:
        assert figure in text, figure


def test_page_needs_nothing_else(bundle: Path) -> None:
    write_report(bundle)
    html = (bundle / "report.html").read_text()
    page = read_page(bundle)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.fetched and all(item.startswith("data:image/png;base64,") for item in page.fetched)
    assert not re.search(r"https?:|@import|url\(", html)
    assert len(html.encode()) < 2_000_000
    assert html.count("<table") == html.count('class="scroll"')


def test_same_input_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    write_report(bundle)
    first = {name: (bundle / name).read_bytes() for name in ("report.html", "report.json")}
    moved = Path(shutil.copytree(bundle, tmp_path / "elsewhere"))
    write_report(moved)
    assert first == {name: (moved / name).read_bytes() for name in first}


def test_chooses_the_longest_learned_run(bundle: Path) -> None:
    write_trace(bundle / "runs" / "short" / "trace.json", make_trace(bundle, "learned", 9))
    assert write_report(bundle)["run"]["name"] == "test"
    assert write_report(bundle, run="short")["run"]["images"] == 9
    with pytest.raises(CgateError, match="there are: short, test, test-open"):
        write_report(bundle, run="none")


def test_runs_of_another_plan_do_not_count(bundle: Path) -> None:
    stale = replace(make_trace(bundle, "learned", 5), plan_sha256="0" * 64)
    write_trace(bundle / "runs" / "test" / "trace.json", stale)
    with pytest.raises(CgateError, match="no run with learned gates") as caught:
        write_report(bundle)
    assert "cgate run" in caught.value.hint


def test_verification_of_another_plan_does_not_count(bundle: Path) -> None:
    (bundle / "verify.json").write_text('{"plan_sha256": "0", "equal": true}')
    assert write_report(bundle)["agreement"] is None
    assert "not checked yet" in (bundle / "report.html").read_text()


def test_what_int8_changes_is_shown(bundle: Path) -> None:
    assert write_report(bundle)["fidelity"] is None
    found = {
        "plan_sha256": load_bundle(bundle).sha256,
        "images": 1234,
        "split": "validation",
        "accuracy": {"float": 0.9, "int8": 0.8},
        "changed": 0.0123,
        "units": [
            {"name": "stem", "images": 1234, "sqnr_db": 38.49},
            {"name": "s1b0.gate", "images": 1234, "sqnr_db": None},
        ],
        "gates": [{"name": "s1b0.gate", "reached": 1000, "changed": 25}],
    }
    write_json(bundle / "fidelity.json", found)
    assert write_report(bundle)["fidelity"] == found
    html = (bundle / "report.html").read_text()
    section = html[html.index("What int8 changes") :]
    for text in ("1,234 validation", "90.0 %", "80.0 %", "38.5", "2.5 %"):
        assert text in section
    write_json(bundle / "fidelity.json", {**found, "plan_sha256": "0"})
    assert write_report(bundle)["fidelity"] is None


def test_run_on_the_host_has_no_instructions_and_no_memory(bundle: Path) -> None:
    counted = make_trace(bundle, "learned", 20)
    host = replace(counted, runner="host", instructions=None, modelled_cycles=None, binary=None)
    shutil.rmtree(bundle / "runs")
    write_trace(bundle / "runs" / "test-host" / "trace.json", host)
    value = write_report(bundle)
    assert value["instructions"] is None and value["memory"] is None and value["cost"] == "macs"
    html = (bundle / "report.html").read_text()
    assert "not counted: this run was not under QEMU" in html and "latency" not in html


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_runs(bundle: Path, count: int) -> None:
    shutil.rmtree(bundle / "runs")
    write_trace(bundle / "runs" / "test" / "trace.json", make_trace(bundle, "learned", count))
    assert len(write_report(bundle)["examples"]["cheapest"]) == count // 2


def test_names_cannot_break_out_of_the_page(bundle: Path) -> None:
    plan = json.loads((bundle / "plan.json").read_text())
    plan["classes"][0] = "<script>alert(1)</script>"
    (bundle / "plan.json").write_text(json.dumps(plan))
    write_trace(bundle / "runs" / "test" / "trace.json", make_trace(bundle, "learned", IMAGES))
    write_report(bundle)
    assert "script" not in read_page(bundle).tags


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_png_decodes_to_the_same_pixels(height: int, width: int, channels: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    data = png(image)
    chunks: dict[bytes, bytes] = {}
    place = 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        (crc,) = struct.unpack_from(">I", data, place + 8 + size)
        assert crc == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBB", chunks[b"IHDR"][:10]) == (
        width, height, 8, {1: 0, 3: 2}[channels],
    )  # fmt: skip
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    assert np.array_equal(rows[:, 1:].reshape(image.shape), image)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60))
def test_spread_is_ordered_and_observed(values: list[int]) -> None:
    found: dict[str, Any] = spread(np.array(values, np.int64))
    assert {found[key] for key in ("min", "p5", "p95", "max")} <= set(values)
    assert found["min"] <= found["p5"] <= found["p95"] <= found["max"]
    assert found["mean"] == pytest.approx(sum(values) / len(values))


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1000])
def test_page_fits_a_browser_window(bundle: Path, tmp_path: Path, width: int) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium not found: sudo apt-get install chromium")
    write_report(bundle)
    # The page has no script of its own; this copy measures itself in place of a person.
    measure = (
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth,"
        " getComputedStyle(document.querySelector('.tile b')).fontVariantNumeric].join(' ')"
        "</script>"
    )
    html = (bundle / "report.html").read_text().replace("</body>", measure + "</body>")
    (tmp_path / "page.html").write_text(html)
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={tmp_path}/u", f"--window-size={width},900",
            "--dump-dom", (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    match = re.search(r"<title>(\d+) (\d+) ([\w-]+)</title>", done.stdout)
    assert match is not None, done.stderr[-2000:]
    content, window, figures = int(match[1]), int(match[2]), match[3]
    assert content <= window and figures == "tabular-nums"

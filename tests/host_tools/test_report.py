"""The report: its figures against a trace counted by hand, its page against the figures."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from browser import Browser
from cgate.core.errors import CgateError
from cgate.core.files import write_json
from cgate.core.plan import Margin, Threshold, load_bundle
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.measure import measurement
from cgate.host_tools.report import write_report
from cgate.host_tools.trace import BoardCycles, read_trace, write_trace
from counted import make_trace
from synthetic import small_network, write_checkpoint

IMAGES = 60
RUNS = {"learned": IMAGES, "open": 7, "shut": 7, "majority": IMAGES}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_checkpoint(folder / "checkpoint", small_network(), seed=4)
    bundle = folder / "bundle"
    export_checkpoint(folder / "checkpoint", bundle, find_target("cortex-m4"))
    for gates, count in RUNS.items():
        name = "test" if gates == "learned" else f"test-{gates}"
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


# What sticks out of the window, unless it is in a box that scrolls by itself.
OVERFLOWING = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll')
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  && getComputedStyle(e).display != 'none').map(e => e.tagName + ' ' + e.textContent)"""

# Words whose contrast with the card behind them is below 4.5, WCAG 2's level AA.
FAINT = """(() => {
  const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= 0.03928 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return [...document.querySelectorAll('section p, section td, section dd, .chart text, .tile *')]
    .filter(e => !e.closest('.heat')).map(e => {
      const style = getComputedStyle(e), card = getComputedStyle(e.closest('section, .tile'));
      const words = light(e.closest('svg') ? style.fill : style.color);
      return [e.textContent, ratio(words, light(card.backgroundColor))];
    }).filter(([, r]) => r < 4.5);
})()"""

# Pictures that say nothing to those who do not see them.
UNNAMED = """[...document.querySelectorAll('svg[role=img]')].filter(e => {
  const parts = (e.getAttribute('aria-labelledby') || '').split(' ').map(id =>
    document.getElementById(id));
  return parts.length != 2 || parts.some(p => !p || !p.textContent.trim());
}).length"""


def page_text(bundle: Path) -> str:
    """All words of the page, each space one space."""
    return " ".join(" ".join(read_page(bundle).text).split())


def test_figures_are_those_of_the_trace(bundle: Path) -> None:
    value = write_report(bundle)
    plan = load_bundle(bundle).plan
    trace, opened = make_trace(bundle, "learned", IMAGES), make_trace(bundle, "open", 7)
    assert trace.instructions is not None and opened.instructions is not None

    right = [a == b for a, b in zip(trace.classes, trace.labels, strict=True)]
    assert value["accuracy"]["correct"] == sum(right)
    share = (sum(right) + 2) / (IMAGES + 4)
    assert value["accuracy"]["standard_error"] == pytest.approx(
        (share * (1 - share) / (IMAGES + 4)) ** 0.5
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
    assert trace.modelled_cycles is not None and value["cost"] == "modelled_cycles"
    cycles = trace.modelled_cycles.total
    costs = dict(zip(trace.images, cycles, strict=True))
    for key, wanted in (("cheapest", sorted(cycles)), ("dearest", sorted(cycles)[::-1])):
        assert [row["cost"] for row in value["examples"][key]] == wanted[:6]
        for row in value["examples"][key]:
            assert costs[row["image"]] == row["cost"]
    for row in value["classes"]:
        label = plan.classes.index(row["name"])
        mine = [c for c, k in zip(cycles, trace.labels, strict=True) if k == label]
        assert row["cost_mean"] == pytest.approx(sum(mine) / len(mine))


def measured_on_a_board(bundle: Path) -> dict[str, Any]:
    """What `cgate measure --as-board` makes of the runs, with energy and a battery."""
    runs = {gates: make_trace(bundle, gates, count) for gates, count in RUNS.items()}
    return measurement(
        bundle, load_bundle(bundle).plan,
        runs["learned"], runs["open"], runs["shut"], runs["majority"],
        as_board=find_target("nucleo-l4r5zi"), per_second=1, battery=(220, 3.0),
    )  # fmt: skip


def test_accounts_and_verdict_are_those_of_the_measurement(bundle: Path) -> None:
    found = measured_on_a_board(bundle)
    without = write_report(bundle)
    assert without["board"]["name"] == "mps2-an386" and without["duty"] is None
    write_json(bundle / "measure.json", found)
    value = write_report(bundle)
    for key in ("accounts", "verdict", "duty", "meters", "board", "accuracy", "macs", "gates"):
        assert value[key] == found[key], key
    assert value["histogram"]["high"] == found["accounts"][-1]["inference"]["worst"]
    text = page_text(bundle)
    assert found["verdict"]["text"] in text
    assert found["accounts"][-1]["savings"]["text"] in text


def test_routes_are_those_of_the_trace(bundle: Path) -> None:
    value = write_report(bundle)["routes"]
    trace = make_trace(bundle, "learned", IMAGES)
    assert trace.modelled_cycles is not None
    found: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(trace.decisions):
        found.setdefault(tuple(row), []).append(i)
    assert value["taken"] == len(value["frequent"]) == len(found) and value["others"] is None
    for row in value["frequent"]:
        mine = found[tuple(row["open"])]
        assert row["images"] == len(mine) and row["share"] == len(mine) / IMAGES
        right = [trace.classes[i] == trace.labels[i] for i in mine]
        assert row["accuracy"] == pytest.approx(sum(right) / len(mine))
        cost = [trace.modelled_cycles.total[i] for i in mine]
        assert row["cost_mean"] == pytest.approx(sum(cost) / len(mine))
    counts = [row["images"] for row in value["frequent"]]
    assert counts == sorted(counts, reverse=True)


def test_a_control_of_other_images_does_not_count(bundle: Path) -> None:
    assert write_report(bundle)["verdict"] is not None
    path = bundle / "runs" / "test-majority" / "trace.json"
    write_trace(path, make_trace(bundle, "majority", IMAGES - 1))
    assert write_report(bundle)["verdict"] is None
    assert "Not known yet" in page_text(bundle)


def test_kernels_are_those_of_the_plan(bundle: Path) -> None:
    value = write_report(bundle)
    plan = load_bundle(bundle).plan
    ops = [(u.index, op) for u in plan.units for op in u.ops if not isinstance(op, Threshold)]
    assert len(value["kernels"]["ops"]) == len(ops)
    for row, (index, op) in zip(value["kernels"]["ops"], ops, strict=True):
        assert not isinstance(op, Margin | Threshold)
        assert row["unit"] == index and op.kernel.endswith(row["kernel"])
        assert (row["why"], row["cost"]) == (op.why, op.cost)
        assert op.why in page_text(bundle)


def test_page_shows_the_figures_of_the_json(bundle: Path) -> None:
    value = write_report(bundle)
    assert json.loads((bundle / "report.json").read_text()) == value
    text = page_text(bundle)
    cycles = value["accounts"][-1]
    keys = ("mean", "p5", "median", "p95", "max")
    wanted = [
        f"{100 * value['accuracy']['value']:.2f}%",
        f"{100 * (1 - cycles['savings']['total']['cost']):.1f}%",
        *(f"{value['macs']['executed'][key]:,.0f}" for key in keys),
        *(f"{row['inference'][key]:,.0f}" for row in value["accounts"] for key in (*keys, "worst")),
        *(f"{100 * (1 - gate['open']):.0f}" for gate in value["gates"]),
        *(unit["name"] for unit in value["units"]),
        *(f"{unit['cost']['median']:,.0f}" for unit in cycles["units"] if unit["cost"]),
        *(f"{row['cost_mean']:,.0f}" for row in value["classes"]),
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
    with pytest.raises(CgateError, match="there are: short, test, test-majority"):
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
    for text in ("1,234 validation", "90.0%", "80.0%", "38.5", "2.5%"):
        assert text in section
    write_json(bundle / "fidelity.json", {**found, "plan_sha256": "0"})
    assert write_report(bundle)["fidelity"] is None


def test_run_on_the_host_has_no_instructions_and_no_memory(bundle: Path) -> None:
    counted = make_trace(bundle, "learned", 20)
    host = replace(counted, runner="host", instructions=None, modelled_cycles=None, binary=None)
    shutil.rmtree(bundle / "runs")
    write_trace(bundle / "runs" / "test-host" / "trace.json", host)
    value = write_report(bundle)
    assert value["instructions"] is None and value["cost"] == "macs" and not value["accounts"]
    assert value["memory"]["flash"] is None and value["verdict"] is None
    text = page_text(bundle)
    for section in ("Needs counted runs", "Not known yet", "Not modelled", "The cost was not"):
        assert "cgate measure BUNDLE" in text[text.index(section) :][:300], section
    assert "its size says nothing about the target" in text
    assert "ms" not in text.split() and "cycles per MAC" not in text


def test_cycles_of_a_board_are_not_called_modelled(bundle: Path) -> None:
    for path in (bundle / "runs").glob("*/trace.json"):
        trace = read_trace(path)
        model = trace.modelled_cycles
        assert model is not None
        cycles = BoardCycles(model.units, model.total)
        measured = replace(
            trace, runner="serial", instructions=None, modelled_cycles=None, board_cycles=cycles,
            target="nucleo-l4r5zi",
        )  # fmt: skip
        write_trace(path, measured)
    value = write_report(bundle)
    assert [row["source"] for row in value["accounts"]] == ["board_cycles"]
    assert value["verdict"]["source"] == value["cost"] == "board_cycles"
    text = page_text(bundle)
    assert "board cycles" in text and "on the board" in text and "DWT" in text
    # What is modelled all the same: energy, and what export had estimated.
    about_cycles = text.replace("Counted is what an emulator counted, modelled", "")
    estimate = value["kernels"]["choice"] is not None
    assert about_cycles.count("modelled cycles") <= estimate
    assert "Energy, modelled, mean" in text and "modelled latency" not in text
    assert "Nothing here was measured on silicon" not in text


def edited(path: Path, change: Callable[[Any], object]) -> None:
    """Change the JSON value in a file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda v: v["units"].reverse(), "units are not the plan's"),
        (lambda v: v["gated"].reverse(), "gates are not the plan's"),
        (lambda v: v["labels"].__setitem__(3, 77), "a class that the plan does not have"),
        (lambda v: v["modelled_cycles"]["total"].__setitem__(0, 0), "cost nothing"),
        (lambda v: v.update(target="no-such-board"), "unknown target 'no-such-board'"),
        (lambda v: v.pop("decisions"), "'decisions' is missing"),
        (lambda v: v["ran"].pop(), "ran should be whole numbers"),
    ],
)
def test_a_damaged_trace_is_named(bundle: Path, change: Callable[[Any], object], why: str) -> None:
    path = bundle / "runs" / "test-open" / "trace.json"
    edited(path, change)
    with pytest.raises(CgateError, match=why) as caught:
        write_report(bundle)
    assert str(path) in caught.value.message
    assert f"remove the folder {path.parent}" in caught.value.hint


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_a_trace_cut_anywhere_is_named(made: Path, tmp_path: Path, data: Any) -> None:
    bundle = tmp_path / "bundle"
    if not bundle.exists():
        shutil.copytree(made, bundle)
    whole = (made / "runs" / "test" / "trace.json").read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 3))
    (bundle / "runs" / "test" / "trace.json").write_bytes(whole[:cut])
    with pytest.raises(CgateError, match=r"trace\.json") as caught:
        write_report(bundle)
    assert "cgate run" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        ("verify.json", {"equal": True}, "cgate verify"),
        ("verify.json", {"comparisons": [{}]}, "cgate verify"),
        ("fidelity.json", {"images": "many"}, "cgate fidelity"),
        ("measure.json", {"target": "mps2-an386"}, "cgate measure"),
        ("measure.json", {"target": "m4", "board": {"name": "m4"}, "duty": {}}, "cgate measure"),
        ("measure.json", "no object", None),
        ("verify.json", b"{", "cgate verify"),
    ],
)
def test_a_damaged_finding_is_named(
    bundle: Path, name: str, content: Any, command: str | None
) -> None:
    if isinstance(content, dict):
        content = {"plan_sha256": load_bundle(bundle).sha256, **content}
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (bundle / name).write_bytes(data)
    if command is None:
        write_report(bundle)
        return
    with pytest.raises(CgateError, match=name) as caught:
        write_report(bundle)
    assert command in caught.value.hint


def test_a_damaged_power_record_is_named(bundle: Path) -> None:
    record = {"schema": 1, "plan_sha256": load_bundle(bundle).sha256, "windows": [{}]}
    write_json(bundle / "power" / "ppk2.json", {**record, "joules_per_inference": 1.0})
    with pytest.raises(CgateError, match=r"ppk2.json is damaged") as caught:
        write_report(bundle)
    assert "cgate power" in caught.value.hint


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


@pytest.mark.slow
def test_the_page_in_a_browser(bundle: Path, tmp_path: Path) -> None:
    """Phone and desk, light and dark: no overflow, no complaint, nothing fetched, readable."""
    folder = tmp_path / "host"
    folder.mkdir()
    write_json(bundle / "measure.json", measured_on_a_board(bundle))
    write_report(bundle)
    (bundle / "report.html").rename(folder / "counted.html")
    counted = make_trace(bundle, "learned", 9)
    host = replace(counted, runner="host", instructions=None, modelled_cycles=None, binary=None)
    write_trace(bundle / "runs" / "host" / "trace.json", host)
    write_report(bundle, run="host")
    (bundle / "report.html").rename(folder / "host.html")
    colours = set()
    with Browser(tmp_path) as browser:
        for page, width, scheme in itertools.product(
            ("counted.html", "host.html"), (360, 1000), ("light", "dark")
        ):
            browser.show(folder / page, width, scheme)
            view = (page, width, scheme)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width, view
            assert browser.evaluate(OVERFLOWING) == [], view
            assert browser.complaints() == [], view
            assert all(url[:5] in ("file:", "data:") for url in browser.requests()), view
            assert browser.evaluate(FAINT) == [], view
            assert browser.evaluate(UNNAMED) == 0, view
            colours.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2

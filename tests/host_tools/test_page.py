"""Pieces of the report's page: numbers, charts, pictures."""

import itertools
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.host_tools.page.html import big, energy_text, percent, time_text
from cgate.host_tools.page.png import png
from cgate.host_tools.page.savings import savings_svg
from cgate.host_tools.page.scatter import HEIGHT, scatter
from cgate.host_tools.page.svg import ticks
from cgate.host_tools.summary import spread

SVG = "{http://www.w3.org/2000/svg}"


def test_numbers_are_written_for_people() -> None:
    assert [percent(x) for x in (0.7312, 1.0, 0.0)] == ["73.1%", "100.0%", "0.0%"]
    assert [big(x) for x in (25_414_003, 2_500, 12, 3e9)] == ["25.41 M", "2.50 k", "12", "3.00 G"]
    assert [time_text(x) for x in (1234, 151.51, 8.972, 0.2191)] == [
        "1.23 s", "151.5 ms", "8.97 ms", "219 µs",
    ]  # fmt: skip
    assert energy_text([5341.2, 5091.0, 5767.9]) == "5.34 mJ <small>(5.09 to 5.77)</small>"
    assert energy_text([390.8, 372.5, 422.1]) == "390.8 µJ <small>(372.5 to 422.1)</small>"


@given(st.floats(1e-3, 1e12), st.integers(2, 12))
def test_ticks_are_few_round_and_inside(high: float, count: int) -> None:
    found = ticks(high, count)
    assert found[0] == 0 and found == sorted(found) and 1 <= len(found) <= count + 1
    assert found[-1] <= high * (1 + 1e-6)
    if len(found) > 1:
        step = found[1]
        assert float(f"{step:.0e}") == pytest.approx(step) and f"{step:.0e}"[0] in "125"


shares = st.floats(-0.2, 0.9)
block = st.fixed_dictionaries(
    {
        "block": st.text("<>&'\"ab", min_size=1, max_size=5),
        "open": st.none() | st.floats(0, 1),
        "macs": st.fixed_dictionaries({"saved": shares}),
        "cost": st.fixed_dictionaries({"saved": shares}),
    }
)


@given(st.lists(block, max_size=6), shares, shares)
def test_the_picture_of_savings_is_whole(blocks: list[Any], macs: float, cost: float) -> None:
    found = {
        "source": "modelled_cycles", "blocks": blocks, "exits": None,
        "total": {"macs": macs, "cost": cost},
    }  # fmt: skip
    measurement = {
        "network": "n<&>", "target": "t", "images": 1200, "split": "test", "data": "d",
        "gates": blocks, "answers": [],
        "accounts": [{"source": "modelled_cycles", "savings": found}],
    }  # fmt: skip
    tree = ElementTree.fromstring(savings_svg(measurement))
    bars = [each for each in tree.iter(f"{SVG}rect") if str(each.get("x")).endswith("%")]
    assert len(bars) == 2 * len(blocks)
    for each in bars:
        start, width = (float(str(each.get(key)).rstrip("%")) for key in ("x", "width"))
        assert start >= -0.01 and start + width <= 100.3
    words = [each.text for each in tree.iter(f"{SVG}text")]
    assert all(row["block"] in words for row in blocks)
    assert tree.find(f"{SVG}title") is not None and tree.find(f"{SVG}desc") is not None


unit = st.tuples(
    st.sampled_from(["body", "gate", "shortcut", "stem"]),
    st.just(0) | st.integers(1, 10**9),
    st.none() | st.integers(1, 10**9),
)


@given(st.lists(unit, min_size=1, max_size=60).filter(lambda all_: any(u[2] for u in all_)))
def test_the_scatter_places_every_unit_and_no_words_on_others(units: list[Any]) -> None:
    rows = [
        {"name": f"s{i}.{role}", "role": role, "macs": macs, "cost": cost and {"median": cost}}
        for i, (role, macs, cost) in enumerate(units)
    ]
    account = {"source": "instructions", "inference": {"mean": 1e6}, "units": rows}
    value = {"accounts": [account], "macs": {"executed": {"mean": 1e6}}}
    html = scatter(value)
    chart = html[html.index('<svg class="chart"') : html.rindex("</svg>") + 6]
    tree = ElementTree.fromstring(chart)
    titles = [str(each.text).split(": ")[0] for each in tree.iter("title")][1:]
    named = [name for title in titles for name in title.split(", ")]
    assert sorted(named) == sorted(row["name"] for row in rows if row["cost"])
    for wanted, width in (("wide", 620), ("narrow", 280)):
        boxes = []
        for each in tree.iter("text"):
            if each.get("class") != wanted:
                continue
            length = 6.6 * len(str(each.text))
            x = float(str(each.get("x")).rstrip("%")) / 100 * width + float(str(each.get("dx")))
            x -= length if each.get("text-anchor") == "end" else 0
            y = float(str(each.get("y"))) - 4
            assert x >= -0.1 and x + length <= width + 0.1 and 0 <= y <= HEIGHT
            boxes.append((x, x + length, y))
        for one, other in itertools.combinations(boxes, 2):
            apart = one[1] <= other[0] + 0.1 or other[1] <= one[0] + 0.1
            assert apart or abs(one[2] - other[2]) >= 13.8, (one, other)


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

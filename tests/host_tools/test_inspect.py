"""`cgate inspect`: the table, the JSON and the picture hold the plan, all of it."""

import json
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cgate.core.plan import Bundle, load_bundle
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.cli import main
from cgate.host_tools.inspection import lines
from cgate.host_tools.picture import svg
from synthetic import small_network, write_checkpoint

Captured = pytest.CaptureFixture[str]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With everything that can be drawn: gates, exits, gated and ungated downsampling."""
    folder = tmp_path_factory.mktemp("inspect")
    network = small_network(exits=("s1b0", "s2b1"), gate_downsampling=True)
    write_checkpoint(folder / "checkpoint", network, images=4)
    export_checkpoint(folder / "checkpoint", folder / "bundle", find_target("cortex-m4"))
    return load_bundle(folder / "bundle")


def test_table_has_every_unit_and_op(bundle: Bundle) -> None:
    text = lines(bundle)
    start = next(i for i, line in enumerate(text) if line.startswith("----"))
    rows = text[start + 1 : text.index("", start)]
    assert len(rows) == sum(len(unit.ops) for unit in bundle.plan.units)
    named = [row.split()[:2] for row in rows if row[0] != " "]
    assert named == [[str(unit.index), unit.name] for unit in bundle.plan.units]
    for unit in bundle.plan.units:
        (row,) = (row for row in rows if row.startswith(f"{unit.index} "))
        assert (unit.condition is not None) == (f"{unit.condition} is open" in row)


def test_json_is_the_plan(bundle: Bundle, capsys: Captured) -> None:
    assert main(["inspect", str(bundle.folder), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    plan = json.loads((bundle.folder / "plan.json").read_text())
    assert data["plan_sha256"] == bundle.sha256 and data["tensors"] == plan["tensors"]
    for shown, unit in zip(data["units"], plan["units"], strict=True):
        for op in shown["ops"]:
            shape = op.pop("weights_shape", None)
            assert (shape is not None) == (op["kind"] == "conv2d")
        assert shown == unit


def test_picture_shows_every_unit_once_and_nothing_overlaps(bundle: Bundle) -> None:
    root = ElementTree.fromstring(svg(bundle))
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    names = [node.text for node in root.iter(f"{SVG}text") if node.get("class") == "name"]
    assert sorted(map(str, names)) == sorted(unit.name for unit in bundle.plan.units)
    boxes = [
        tuple(float(node.attrib[key]) for key in ("x", "y", "width", "height"))
        for node in root.iter(f"{SVG}rect")
        if node.attrib["class"].startswith("unit")
    ]
    assert len(boxes) == len(names)
    for x, y, w, h in boxes:
        assert min(x, y) >= 0 and x + w <= width and y + h <= height
    for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(boxes, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
    for node in root.iter(f"{SVG}path"):
        for x_text, y_text in re.findall(r"([\d.]+) ([\d.]+)", node.attrib["d"]):
            assert 0 <= float(x_text) <= width and 0 <= float(y_text) <= height
    gated = [unit for unit in bundle.plan.units if unit.condition is not None]
    drawn = [node for node in root.iter(f"{SVG}path") if node.get("class") == "control"]
    assert len(drawn) == len(gated)


def test_command_writes_the_picture(bundle: Bundle, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "network.svg"
    assert main(["inspect", str(bundle.folder), "--svg", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    assert path.read_text() == svg(bundle)


def test_no_bundle(tmp_path: Path, capsys: Captured) -> None:
    assert main(["inspect", str(tmp_path / "none")]) == 2
    assert "there is no bundle folder" in capsys.readouterr().err

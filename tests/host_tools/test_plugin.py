"""Counting instructions between markers, on programs whose counts are known from their text."""

from pathlib import Path

import pytest

from c_programs import compile_target, run_target
from cgate.core.errors import CgateError
from cgate.host_tools.plugin import CLASSES, Counts, read_counts
from tiny import needs_qemu

TARGETS = [
    "cortex-m0plus",
    "cortex-m3",
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
    "cortex-m55",
    "netduinoplus2",
]
pytestmark = pytest.mark.qemu


def count(folder: Path, body: str, target: str = "cortex-m4") -> Counts:
    """Boot a program whose main is `body`, in C with assembly."""
    needs_qemu()
    source = folder / "program.c"
    source.write_text(
        '#include "cg_marker.h"\n#include "cg_port.h"\n'
        "int main(void) {\n    cg_port_open();\n    CG_MARK_BEGIN(CG_MARK_INFERENCE);\n"
        f"{body}\n    CG_MARK_END(CG_MARK_INFERENCE);\n    return 0;\n}}\n"
    )
    program = compile_target("plugin", target, [source], "-masm-syntax-unified")
    return run_target(program, target, folder)[1]


def loop(turns: int) -> str:
    """1 + 2 * turns instructions; at most 255 turns."""
    return f'__asm volatile("movs r4, #{turns}\\n1: subs r4, r4, #1\\n\\tbne 1b" ::: "r4", "cc");\n'


def region(number: int, body: str) -> str:
    return f"CG_MARK_BEGIN({number});\n{body}\nCG_MARK_END({number});\n"


@pytest.mark.parametrize("target", TARGETS)
def test_a_known_loop_has_its_exact_count(target: str, tmp_path: Path) -> None:
    counts = count(tmp_path, region(7, loop(250)), target)
    assert counts.units[0, 7] == 1 + 2 * 250
    classes = dict(zip(CLASSES, counts.by_unit.classes[0, 7].tolist(), strict=True))
    assert {name: n for name, n in classes.items() if n} == {"alu": 251, "branch": 250}
    assert counts.total.tolist() == [1 + 2 * 250]
    assert counts.open == ()


def test_markers_cost_nothing_and_regions_nest(tmp_path: Path) -> None:
    inner = region(2, loop(50)) + region(3, "") + region(2, loop(5))
    counts = count(tmp_path, region(1, '__asm volatile("nop");' + inner))
    assert counts.units[0, 3] == 0
    assert counts.units[0, 2] == 101 + 11
    assert counts.units[0, 1] == 1 + 101 + 11
    assert counts.total.tolist() == [1 + 101 + 11]


@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m4"])
@pytest.mark.parametrize("number", [0, 7, 31, 32, 63, 64, 128, 199])
def test_every_id(number: int, target: str, tmp_path: Path) -> None:
    counts = count(tmp_path, region(number, '__asm volatile("nop\\n\\tnop");'), target)
    assert counts.units[0].nonzero()[0].tolist() == [number]
    assert counts.units[0, number] == 2


@pytest.mark.parametrize("offset", range(4080, 4098, 2))
def test_markers_at_the_end_of_a_page(offset: int, tmp_path: Path) -> None:
    """QEMU ends a translation block at a page's end; markers and halves of them fall beyond it."""
    # The branch over the gap is outside the region and makes the code start at a known offset.
    jump = f'__asm volatile("b 2f\\n\\t.balign 4096\\n\\t.space {offset}\\n2:");\n'
    body = jump + region(5, '__asm volatile("nop\\n\\tnop.w\\n\\tnop");' * 5)
    assert count(tmp_path, body).units[0, 5] == 15


def test_markers_split_from_their_block(tmp_path: Path) -> None:
    """A branch between the two halves of a marker puts them into different blocks."""
    half = '__asm volatile(".inst.w 0xf3af8080 + 9 / 32\\n\\tb 1f\\n1: .inst.w 0xf3af80{:x} + 9");'
    body = half.format(0xA0) + loop(3) + half.format(0xC0)
    # The branch inside the end marker still belongs to the region.
    assert count(tmp_path, body).units[0, 9] == 7 + 1


def test_a_region_left_early_ends_with_the_next_inference(tmp_path: Path) -> None:
    """As after CG_TRY: no record of the unit, and the next inference counts from anew."""
    body = "CG_MARK_BEGIN(4);" + loop(9) + "CG_MARK_BEGIN(CG_MARK_INFERENCE);" + region(6, loop(2))
    counts = count(tmp_path, body)
    assert counts.total.tolist() == [5]
    assert counts.units[0].nonzero()[0].tolist() == [6]


def test_open_regions_are_told_at_exit(tmp_path: Path) -> None:
    counts = count(tmp_path, "CG_MARK_BEGIN(11); CG_MARK_BEGIN(12); cg_port_exit(0);")
    assert counts.open == (255, 11, 12)
    assert len(counts.total) == 0


def test_two_runs_count_the_same(tmp_path: Path) -> None:
    needs_qemu()
    source = tmp_path / "program.c"
    source.write_text(
        '#include "cg_marker.h"\n#include "cg_port.h"\nint main(void) {\n'
        "    cg_port_open();\n    for (volatile int i = 0; i < 9; i++) {\n"
        f"CG_MARK_BEGIN(CG_MARK_INFERENCE);{region(0, loop(77))}CG_MARK_END(CG_MARK_INFERENCE);"
        "\n    }\n    return 0;\n}\n"
    )
    program = compile_target("twice", "cortex-m4", [source])
    logs = []
    for _ in range(2):
        counts = run_target(program, "cortex-m4", tmp_path)[1]
        assert counts.units[:, 0].tolist() == [155] * 9
        logs.append((tmp_path / "counts").read_bytes())
    assert logs[0] == logs[1]


def test_a_missing_or_foreign_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="no instruction counts"):
        read_counts(tmp_path / "counts", 3)
    (tmp_path / "counts").write_bytes(bytes([0, 0, 0, 0, 9, 0, 0, 0]) + bytes(8 * 12))
    with pytest.raises(CgateError, match="do not belong"):
        read_counts(tmp_path / "counts", 3)

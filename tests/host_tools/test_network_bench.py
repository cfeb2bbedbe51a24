"""`cgate bench network`: what it measures, and what it writes."""

import csv
import io
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cgate.core.checkpoint import load_checkpoint
from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.targets import find_target, stand_in
from cgate.host_tools import network_bench, runner
from cgate.host_tools.network_bench import INT8_SIZE, Row, lines, measure, to_csv
from cgate.host_tools.runner import Result
from synthetic import small_network, write_checkpoint
from tiny import needs_qemu

L4 = find_target("nucleo-l4r5zi")


@pytest.mark.qemu
def test_a_board_is_measured_in_a_machine_with_its_flash(tmp_path: Path) -> None:
    needs_qemu()
    network = small_network(shape=(16, 16, 3), width=16)
    write_checkpoint(tmp_path / "checkpoint", network, images=4)
    rows = measure(tmp_path / "checkpoint", L4)
    plain, fast, small = rows
    assert [row.kernels for row in rows] == ["ref", "auto", INT8_SIZE]
    assert {(row.network, row.target, row.n) for row in rows} == {("small", "nucleo-l4r5zi", 2)}
    for row in rows:
        assert row.cycles is not None and row.cycles_flash is not None
        assert row.instructions < row.cycles < row.cycles_flash
        assert row.mac_per_cycle == pytest.approx(row.macs / row.cycles, abs=1e-3)
        assert row.flash <= row.flash_limit
    assert small.flash_limit == plain.flash + 48 * 1024
    assert plain.flash_limit == fast.flash_limit == L4.flash.size
    slow = [row.cycles_flash or 0 for row in (fast, small, plain)]
    assert slow == sorted(slow)
    (first, *_) = csv.DictReader(io.StringIO(to_csv(rows, "abc")))
    assert list(first) == [*(field.name for field in fields(Row)), "commit"]
    assert first["cycles"] == str(plain.cycles) and first["commit"] == "abc"
    assert f"{small.instructions:,}" in "\n".join(lines(rows))


def test_the_machine_that_stands_in_has_the_core_and_the_flash() -> None:
    machine = stand_in(L4)
    assert machine.qemu_machine and machine.core == L4.core
    assert machine.flash_access == L4.flash_access
    code = machine.code_ram
    assert code is not None and L4.code_ram is not None and code.size >= L4.code_ram.size
    assert code.origin == machine.ram.origin + machine.ram.size
    assert L4.flash_access is not None and L4.flash_access.wait_states == 5


@pytest.mark.qemu
def test_kernels_that_answer_otherwise_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_qemu()
    write_checkpoint(tmp_path / "checkpoint", small_network(), images=4)
    right = runner.run

    def wrong(built: object, *rest: object, **named: object) -> list[Result]:
        results = right(built, *rest, **named)  # type: ignore[arg-type]
        is_ref = "ref" in str(built)
        return results if is_ref else [replace(r, logits=r.logits ^ 1) for r in results]

    monkeypatch.setattr(network_bench, "run", wrong)
    with pytest.raises(CgateError, match="answers with the kernels auto are not") as error:
        measure(tmp_path / "checkpoint", find_target("cortex-m4"))
    assert error.value.code == EXIT_CHECK_FAILED


def test_the_dense_network_is_the_same_every_time(tmp_path: Path) -> None:
    network_bench.write_dense(tmp_path / "a")
    network_bench.write_dense(tmp_path / "b")
    for name in ("model.safetensors", "ranges.json", "card.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    network = load_checkpoint(tmp_path / "a").network
    assert (len(network.blocks), network.gated, network.input_shape) == (9, (), (32, 32, 3))

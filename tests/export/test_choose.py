"""Which kernel an exported op gets, and why."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cgate.core.checkpoint import CARD, Checkpoint, load_checkpoint
from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import write_json
from cgate.core.plan import Choice, Conv2d, KernelOp, Plan, load_bundle
from cgate.core.targets import Target, find_target
from cgate.export.bundle import export_checkpoint
from cgate.export.choose import Chooser, Limits, run_rates
from cgate.export.kernels import MVE, PHASES, WINOGRAD
from cgate.export.lower import lower, prepare
from synthetic import small_network, write_checkpoint

M4 = find_target("cortex-m4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), small_network(), images=4)


def with_card(checkpoint: Checkpoint, folder: Path, **more: Any) -> Checkpoint:
    """The same checkpoint, whose card says more."""
    for path in checkpoint.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    write_json(folder / CARD, {**json.loads((folder / CARD).read_text()), **more})
    return load_checkpoint(folder)


def convolutions(plan: Plan) -> Mapping[str, Conv2d]:
    return {op.output: op for unit in plan.units for op in unit.ops if isinstance(op, Conv2d)}


def planned(
    checkpoint: Checkpoint,
    target: Target = M4,
    kernels: str = "auto",
    limits: Limits | None = None,
) -> tuple[Plan, Choice]:
    plan, _ = lower(checkpoint, target, kernels=kernels, limits=limits)
    assert plan.choice is not None
    return plan, plan.choice


def test_the_fastest_kernel_is_chosen(checkpoint: Checkpoint) -> None:
    plan, choice = planned(checkpoint)
    ops = convolutions(plan)
    assert ops["s1b0.conv1"].kernel == WINOGRAD.name
    assert ops["s2b0.conv1"].kernel == PHASES.name
    assert "stride" in ops["s2b0.conv1"].why
    # One pixel, four channels: gathering columns costs more than it saves.
    assert ops["s1b0.gate.hidden"].kernel == "conv2d_s8__ref"
    for op in ops.values():
        if op.scratch is not None:
            assert op.scratch[0] + op.scratch[1] <= plan.arena_size
    total = sum(getattr(op, "cost", 0) for unit in plan.units for op in unit.ops)
    assert choice.worst == choice.expected == total > 0


@pytest.mark.parametrize(("target", "kernels"), [("cortex-m3", "auto"), ("cortex-m4", "ref")])
def test_ref_where_nothing_else_can_be(target: str, kernels: str, checkpoint: Checkpoint) -> None:
    plan, choice = planned(checkpoint, find_target(target), kernels)
    ops = [op for unit in plan.units for op in unit.ops if isinstance(op, KernelOp)]
    assert ops and all(op.kernel.endswith("__ref") and op.why == "portable" for op in ops)
    assert choice.kernels == kernels


def test_helium_kernels_are_for_cores_with_helium(checkpoint: Checkpoint) -> None:
    plan, _ = planned(checkpoint, find_target("cortex-m55"))
    ops = convolutions(plan)
    assert {ops[f"{block}.conv1"].kernel for block in ("s1b0", "s2b0")} == {MVE.name}
    other, _ = planned(checkpoint, find_target("cortex-m33"))
    assert all("VMLADAVA" not in op.why for op in convolutions(other).values())
    assert MVE.name not in {op.kernel for op in convolutions(other).values()}


def test_dsp_kernels_need_a_core_with_dsp(checkpoint: Checkpoint) -> None:
    with pytest.raises(CgateError, match="no DSP"):
        planned(checkpoint, find_target("cortex-m3"), "dsp")


def front(chooser: Chooser) -> Iterator[Limits]:
    """Limits from the least that fit to more than can be used."""
    for ram in (chooser.least_ram, chooser.least_ram + 1500, 1 << 20):
        least = chooser.least_flash(ram)
        for flash in (least, least + 700, least + 3000, least + 9000, 1 << 20):
            yield Limits(flash, ram)


def test_no_choice_of_kernels_is_better(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Against all choices there are for the four layers at which most is at stake."""
    rates = {"s1b0": {"all": 0.3}, "s2b1": {"all": 0.01}}
    chooser = prepare(with_card(checkpoint, tmp_path, open_rates=rates), M4).chooser
    wide = {
        key: step
        for key, step in chooser.steps.items()
        if len(step.allowed(1 << 30)) > 2 and step.candidates[0].cost.value > 10_000
    }
    assert len(wide) >= 4
    for limits in front(chooser):
        units, choice, arena = chooser.choose(limits)
        assert arena <= choice.ram <= limits.ram and choice.flash <= limits.flash
        chosen = {
            key: next(
                each
                for each in step.candidates
                if each.kernel == getattr(units[key[0]].ops[key[1]], "kernel", None)
            )
            for key, step in chooser.steps.items()
        }

        def expected(picks: Mapping[tuple[int, int], Any]) -> int:
            return sum(chooser.steps[key].rate * each.cost.value for key, each in picks.items())

        assert expected(chosen) // 1_000_000 == choice.expected
        assert chooser.flash_of(chosen.values()) == choice.flash
        for picks in itertools.product(*(step.candidates for step in list(wide.values())[:5])):
            other = {**chosen, **dict(zip(wide, picks, strict=False))}
            flash = chooser.flash_of(other.values())
            ram = choice.ram - arena + max(each.peak for each in other.values())
            possible = not any(each.refused for each in picks)
            if possible and flash <= limits.flash and ram <= limits.ram:
                assert expected(other) >= expected(chosen)


def test_limits_bound_the_choice(checkpoint: Checkpoint) -> None:
    chooser = prepare(checkpoint, M4).chooser
    before, least = None, chooser.least_flash(1 << 20)
    for flash in (least, least + 3000, 1 << 20):
        plan, choice = planned(checkpoint, limits=Limits(flash, 1 << 20))
        assert choice.flash <= choice.flash_limit == flash
        assert before is None or choice.expected < before
        before = choice.expected
        reasons = [op.why for op in convolutions(plan).values()]
        assert any("no flash left" in why for why in reasons) == (flash < 1 << 20)
    plan, choice = planned(checkpoint, limits=Limits(1 << 20, chooser.least_ram))
    assert any("no RAM left" in op.why for op in convolutions(plan).values())
    assert choice.ram == choice.ram_limit == chooser.least_ram


def test_limits_that_nothing_fits_name_the_least_that_would_do(checkpoint: Checkpoint) -> None:
    chooser = prepare(checkpoint, M4).chooser
    for limits in (
        Limits(chooser.least_flash(1 << 20) - 1, 1 << 20),
        Limits(1 << 20, chooser.least_ram - 1),
        Limits(1, 1),
    ):
        with pytest.raises(CgateError, match="at least") as caught:
            planned(checkpoint, limits=limits)
        assert caught.value.code == EXIT_CHECK_FAILED
        words = caught.value.hint.split()
        enough = Limits(int(words[1]), int(words[3]))
        planned(checkpoint, limits=enough)


def test_a_rarely_run_block_gets_cheap_flash(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Where there is not enough for both, the flash goes to the block that is open."""
    chooser = prepare(checkpoint, M4).chooser
    tight = Limits(chooser.least_flash(1 << 20) + 20_000, 1 << 20)
    costs = []
    for i, rate in enumerate((1.0, 0.0)):
        folder = tmp_path / str(i)
        folder.mkdir()
        card = {"s1b0": {"all": 1 - rate}, "s2b1": {"all": rate}}
        plan, choice = planned(with_card(checkpoint, folder, open_rates=card), limits=tight)
        assert choice.expected < choice.worst
        body = next(unit for unit in plan.units if unit.name == "s2b1.body")
        costs.append(sum(op.cost for op in body.ops if isinstance(op, Conv2d)))
    assert costs[0] < costs[1]


def test_rates_come_from_the_card(tmp_path: Path) -> None:
    network = small_network(exits=("s2b0",))
    units = lower(write_checkpoint(tmp_path, network, images=4), M4)[0].units
    always = [1_000_000] * len(units)
    assert run_rates({}, units) == always
    for nonsense in ({"open_rates": 3}, {"open_rates": {"s1b0": {"all": 7}}}, {"exits": [None]}):
        assert run_rates(nonsense, units) == always
    card = {
        "open_rates": {"s1b0": {"all": 0.25}, "s2b1": {"all": 0.0}},
        "exits": [{"block": "s2b0", "left": 0.4}],
    }
    rates = dict(zip((unit.name for unit in units), run_rates(card, units), strict=True))
    assert rates["stem"] == rates["s2b0.exit"] == 1_000_000
    assert rates["s1b0.body"] == 250_000
    assert rates["s2b1.gate"] == rates["head"] == 600_000
    assert rates["s2b1.body"] == 10_000  # never seen open, but it may be


def test_the_choice_survives_the_plan(checkpoint: Checkpoint, tmp_path: Path) -> None:
    limits = Limits(200_000, 100_000)
    made = export_checkpoint(checkpoint.folder, tmp_path / "b", M4, limits=limits)
    assert load_bundle(tmp_path / "b").plan.choice == made.choice
    assert made.choice.flash_limit == 200_000 and made.choice.rates[0] == 1_000_000

"""The energy model against its own definition, and every target's table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.core.energy import Energy, battery_days, read_energy
from cgate.core.targets import all_targets, find_target

L4R5 = find_target("nucleo-l4r5zi").energy
assert L4R5 is not None


def test_the_models_reproduce_the_runs_that_calibrate_them() -> None:
    # MLPerf Tiny v1.2, X-CUBE-AI 9.0 on NUCLEO-L4R5ZI: 19.82 M cycles, 6919 uJ; on U575: 17.77 M
    # cycles, 2579 uJ.
    for name, cycles, published in (
        ("nucleo-l4r5zi", 19.82e6, 6919),
        ("nucleo-u575zi-q", 17.77e6, 2579),
    ):
        energy = find_target(name).energy
        assert energy is not None
        estimate = energy.per_inference(cycles)
        assert estimate.low <= published * 1.01 and estimate.high >= published * 0.99
        assert estimate.value == pytest.approx(published, rel=0.1)


def test_every_model_says_where_it_is_from() -> None:
    found = [target.energy for target in all_targets() if target.energy is not None]
    assert found
    assert all("MLPerf" in energy.runs and energy.sleep_mode for energy in found)


@given(
    cycles=st.floats(1e3, 1e9),
    share=st.floats(0, 1),
)
def test_average_power_lies_between_sleeping_and_running(cycles: float, share: float) -> None:
    assert L4R5 is not None
    clock = 120e6
    power = L4R5.average_power(cycles, clock, share * clock / cycles * (1 - 1e-9))
    active = L4R5.pj_per_cycle * clock * 1e-6
    assert L4R5.sleep_uw * (1 - 1e-6) <= power.value <= active * (1 + 1e-6)
    assert power.low <= power.value <= power.high


def test_more_inferences_than_a_second_holds_are_refused() -> None:
    assert L4R5 is not None
    with pytest.raises(ValueError, match="do not fit"):
        L4R5.average_power(120e6, 120e6, 1.5)


def test_a_battery_lasts_as_its_energy_says() -> None:
    # 1000 mWh at 1 mW: 1000 hours.
    assert battery_days(1000 / 3, 3.0, 1000) == pytest.approx(1000 / 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pj_low": 500.0}, "pj_low"),
        ({"regulator": "magic"}, "regulator"),
        ({"supply_v": "1.8"}, "supply_v"),
        ({"colour": 1}, "unknown"),
    ],
)
def test_bad_tables_are_named(change: dict[str, object], message: str) -> None:
    table: dict[str, object] = {name: getattr(L4R5, name) for name in Energy.__dataclass_fields__}
    assert read_energy(table) == L4R5
    with pytest.raises(ValueError, match=message):
        read_energy({**table, **change})
    del table["runs"]
    with pytest.raises(ValueError, match="missing"):
        read_energy(table)

"""The table of `cgate export`: flash, RAM and MACs before anything is compiled."""

import re

import pytest

from cgate.core.plan import load_bundle
from cgate.core.targets import find_target
from cgate.export.bundle import Summary, export_checkpoint
from cgate.export.kernels import constants_size
from cgate.host_tools.build import build
from cgate.host_tools.footprint import lines
from synthetic import small_network, write_checkpoint
from tiny import needs_qemu

NETWORK = small_network(gate_downsampling=True, exits=("s1b0",))


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("footprint")
    checkpoint = write_checkpoint(folder / "checkpoint", NETWORK)
    return export_checkpoint(checkpoint.folder, folder / "bundle", find_target("netduinoplus2"))


def test_units_add_up_to_the_whole(summary: Summary) -> None:
    bundle = load_bundle(summary.out)
    value = summary.to_json()
    units = value["units"]
    flash = sum(unit["flash_bytes"] for unit in units)
    assert flash == value["weights_bytes"] == constants_size(bundle.plan, bundle.weights)
    assert max(unit["arena_bytes"] for unit in units) == value["arena_bytes"]
    deciders = sum(unit.macs for unit in bundle.plan.gates)
    assert sum(unit["macs"] for unit in units) == value["dense_macs"] + deciders
    assert all(0 <= unit["runs"] <= 1 for unit in units)


def test_the_table_has_a_row_per_unit_and_shares_of_the_target(summary: Summary) -> None:
    text = lines(summary)
    for unit in summary.plan.units:
        (row,) = (line for line in text if line.startswith(f"{unit.name} "))
        assert f"{unit.macs / 1000:,.1f}" in row and row.count("%") == 2
    whole = "\n".join(text)
    for what in ("flash", "RAM"):
        assert re.search(rf"^{what} +about .* of .* \(\d+\.\d %\)", whole, re.M)
    assert re.search(r"^MACs .* dense; gates and exits add .* expected", whole, re.M)


@pytest.mark.qemu
def test_the_estimate_is_no_promise_that_the_linker_breaks(summary: Summary) -> None:
    """What is linked in the end is not more than was said, and not much less."""
    needs_qemu()
    built = build(summary.out, find_target("netduinoplus2"))
    value = summary.to_json()
    assert built.flash is not None and built.ram is not None
    assert built.flash <= value["flash_estimate_bytes"] < built.flash + 24 * 1024
    assert built.ram <= value["ram_estimate_bytes"] < built.ram + 1024

"""`verify` says EQUAL when everything is, and names the first unit that differs when not."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.plan import load_bundle
from cgate.core.targets import all_targets, find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.verify import Verification, verify
from synthetic import random_images, small_network, write_checkpoint

NETWORK = small_network(gate_downsampling=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = write_checkpoint(folder / "checkpoint", NETWORK, seed=2)
    export_checkpoint(checkpoint.folder, folder / "bundle", find_target("cortex-m4"))
    return folder / "bundle"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return random_images(NETWORK, 30, 7)


def test_all_routes_are_equal(bundle: Path, images: NDArray[np.uint8]) -> None:
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    result = verify(bundle, images, data="random", on=("tflite", "network", "host"))
    assert result.equal
    assert result.lines()[-1] == "EQUAL"
    units = load_bundle(bundle).plan.units
    for each in result.comparisons:
        if each.route == "network":  # shows no units, and cannot be forced
            assert each.values == len(images) * 10
            assert each.decisions == len(images) * 3
        else:
            assert each.values > len(images) * len(units)
            assert each.decisions == 2 * len(images) * 3


@pytest.mark.qemu
def test_qemu_is_equal(bundle: Path, images: NDArray[np.uint8]) -> None:
    assert verify(bundle, images, data="random", on=("qemu",)).equal


@pytest.mark.qemu
@pytest.mark.parametrize("target", [each.name for each in all_targets() if each.qemu_machine])
def test_200_held_out_digits_are_equal_on_every_machine(
    target: str, digits_checkpoint: Path, tmp_path: Path
) -> None:
    export_checkpoint(digits_checkpoint, tmp_path, find_target(target))
    digits = load_dataset("digits").test.images[:200]
    result = verify(tmp_path, digits, data="digits", on=("qemu",))
    assert result.equal, "\n".join(result.lines())
    assert result.images == 200
    assert result.comparisons[0].decisions == 2 * 200 * 4


def changed(bundle: Path, images: NDArray[np.uint8], table: str, value: int) -> Verification:
    """Verify after the first number of a table in the generated code was replaced."""
    source = bundle / "c" / "model_weights.c"
    pattern = rf"(model_{table}\[\d+\] = \{{\s+)-?\d+"
    text, count = re.subn(pattern, rf"\g<1>{value}", source.read_text())
    assert count == 1
    source.write_text(text)
    return verify(bundle, images, data="random", on=("host",))


def test_one_wrong_bias_names_its_unit_and_values(bundle: Path, images: NDArray[np.uint8]) -> None:
    bias = int(load_bundle(bundle).weights["s2b1.conv2.bias"][0])
    result = changed(bundle, images, "s2b1_conv2_bias", bias + (5000 if bias < 0 else -5000))
    assert not result.equal
    difference = result.comparisons[0].difference
    assert difference is not None
    assert difference.unit == "s2b1.body"
    assert difference.why == "values"
    assert 1 <= len(difference.first) <= 5
    for position, expected, found in difference.first:
        assert position % 16 == 0  # channel 0 of 16
        assert expected != found
    text = "\n".join(result.lines())
    assert "first difference in unit s2b1.body, image 0" in text
    assert text.endswith("DIFFERENT")


def test_a_wrong_gate_is_found_even_if_only_its_decision_differs(
    bundle: Path, images: NDArray[np.uint8]
) -> None:
    result = changed(bundle, images, "s1b0_gate_fc2_bias", 1 << 22)
    difference = result.comparisons[0].difference
    assert difference is not None
    assert difference.unit == "s1b0.gate"


def test_a_damaged_unit_file_is_named(bundle: Path, images: NDArray[np.uint8]) -> None:
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    path = bundle / "units/00_stem.tflite"
    path.write_bytes(b"not a model")
    with pytest.raises(CgateError, match="00_stem"):
        verify(bundle, images, data="random", on=("tflite",))
    path.unlink()
    with pytest.raises(CgateError, match="00_stem"):
        verify(bundle, images, data="random", on=("tflite",))


def test_a_network_file_of_another_plan_is_found(
    bundle: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    checkpoint = write_checkpoint(tmp_path / "other", NETWORK, seed=99).folder
    export_checkpoint(checkpoint, tmp_path / "b", find_target("cortex-m4"))
    shutil.copy(tmp_path / "b/model.tflite", bundle / "model.tflite")
    result = verify(bundle, images, data="random", on=("network",))
    assert not result.equal
    assert result.comparisons[0].route == "network" and result.comparisons[0].difference is not None
    shutil.copy(bundle / "units/00_stem.tflite", bundle / "model.tflite")
    with pytest.raises(CgateError, match=r"model\.tflite does not hold the plan's network"):
        verify(bundle, images, data="random", on=("network",))


def test_a_wrongly_reported_decision_is_found(bundle: Path, images: NDArray[np.uint8]) -> None:
    """The hook tells the opposite, while the right bodies run: all values are equal."""
    source = bundle / "c/model.c"
    text = source.read_text()
    wrong = text.replace(
        "= cg_gate(hooks, 0, open_s1b0_gate)", "= !cg_gate(hooks, 0, !open_s1b0_gate)"
    )
    assert wrong != text
    source.write_text(wrong)
    result = verify(bundle, images, data="random", on=("host",), patterns=("learned",))
    difference = result.comparisons[0].difference
    assert difference is not None and (difference.unit, difference.why) == ("s1b0.gate", "decision")
    assert result.comparisons[0].differing == len(images)


def test_a_file_of_another_unit_is_named(bundle: Path, images: NDArray[np.uint8]) -> None:
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    shutil.copy(bundle / "units/00_stem.tflite", bundle / "units/01_s1b0.gate.tflite")
    with pytest.raises(CgateError, match=r"01_s1b0\.gate\.tflite does not hold"):
        verify(bundle, images, data="random", on=("tflite",))


def test_another_tflite_package_can_be_asked_for(bundle: Path, images: NDArray[np.uint8]) -> None:
    found = verify(bundle, images, data="digits", on=("litert",), patterns=("learned",))
    assert found.equal and found.comparisons[0].tool.startswith("ai-edge-litert")
    assert found.comparisons[0].values > 0

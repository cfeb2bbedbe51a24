"""`--kernels cmsis-nn`: bundles whose convolutions and residual additions are Arm's."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cgate.core.errors import EXIT_TOOL_MISSING, EXIT_USAGE, CgateError
from cgate.core.plan import Decision, load_bundle
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.export.kernels import NEEDS_CMSIS_NN, cmsis_nn_scratch
from cgate.host_tools.bench import LAYERS, cost_calls, measure
from cgate.host_tools.build import build
from cgate.host_tools.cli import cgate, main
from cgate.host_tools.cmsis_nn import VARIABLE, find_cmsis_nn
from cgate.host_tools.verify import verify
from synthetic import SHAPES, random_images, small_network, write_checkpoint
from tiny import needs_host, needs_qemu

NETWORKS = {"option-a": small_network(), "inverted": SHAPES["inverted"]}
library = pytest.mark.skipif(
    not os.environ.get(VARIABLE),
    reason="needs a copy: git clone https://github.com/ARM-software/CMSIS-NN, "
    f"and {VARIABLE}=FOLDER",
)


def bundle_of(name: str, folder: Path, target: str = "cortex-m4") -> Path:
    write_checkpoint(folder / "checkpoint", NETWORKS[name], images=8)
    machine = find_target(target)
    export_checkpoint(folder / "checkpoint", folder / "bundle", machine, kernels="cmsis-nn")
    return folder / "bundle"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_library_computes_what_it_can_and_the_host_the_same(name: str, tmp_path: Path) -> None:
    needs_host()
    bundle = bundle_of(name, tmp_path)
    plan = load_bundle(bundle).plan
    for unit in plan.units:
        for op in unit.ops:
            if not isinstance(op, Decision):
                theirs = op.op in ("conv2d", "depthwise_conv2d", "residual_add")
                assert (op.kernel in NEEDS_CMSIS_NN) == theirs, op
    images = random_images(NETWORKS[name], 5, 3)
    assert verify(bundle, images, data="random", on=["host"]).equal


def test_without_the_library_nothing_is_exported_or_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    bundle = bundle_of("option-a", tmp_path)
    with pytest.raises(CgateError, match="no copy of CMSIS-NN is named") as error:
        build(bundle, find_target("cortex-m4"))
    assert error.value.code == EXIT_TOOL_MISSING and "git clone" in error.value.hint
    words = ["export", str(tmp_path / "checkpoint"), "--out", str(tmp_path / "other")]
    assert main([*words, "--kernels", "cmsis-nn"]) == EXIT_TOOL_MISSING
    assert main([*words, "--cmsis-nn", str(tmp_path)]) == EXIT_USAGE
    assert "belongs to --kernels cmsis-nn" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", ["export", "build", "flash", "run", "verify"])
def test_every_command_that_compiles_takes_the_folder(command: str) -> None:
    assert "--cmsis-nn" in CliRunner().invoke(cgate, [command, "--help"]).output


@library
@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_library_equals_the_reference(name: str, target: str, tmp_path: Path) -> None:
    needs_qemu()
    bundle = bundle_of(name, tmp_path, target)
    built = build(bundle, find_target(target))
    assert built.flash is not None
    # The room that is left for code of the library is enough.
    choice = load_bundle(bundle).plan.choice
    assert choice is not None and built.flash <= choice.flash
    images = random_images(NETWORKS[name], 5, 3)
    assert verify(bundle, images, data="random", on=["qemu"]).equal


@library
@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m4", "cortex-m55"])
def test_scratch_memory_is_at_least_what_the_library_asks_for(target: str) -> None:
    needs_qemu()
    calls = [call for call in (*LAYERS, *cost_calls()) if "conv2d" in call.op]
    for cost in measure(find_target(target), calls, cmsis_nn=find_cmsis_nn(None)):
        if cost.kernel in NEEDS_CMSIS_NN:
            shape = cost.call.shape
            depthwise = cost.call.op == "depthwise_conv2d_s8"
            assert cost.ram <= cmsis_nn_scratch(shape.taps, shape.output[2], depthwise)

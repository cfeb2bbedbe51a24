"""A .tflite file through the whole chain: export, build, run, verify, report, inspect."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.plan import load_bundle
from cgate.export import reference
from cgate.export.golden import GoldenUnit
from cgate.host_tools.cli import main
from tflite_files import Net
from tiny import needs_host, needs_qemu

Captured = pytest.CaptureFixture[str]

# mlcommons/tiny, benchmark/training/image_classification: trained_models/
# pretrainedResnet_quant.tflite, and the runner's perf_samples_idxs.npy.
HOW = (
    "MLPerf Tiny's ResNet-8 is not here: put mlcommons/tiny's pretrainedResnet_quant.tflite and "
    "perf_samples_idxs.npy, the first as ic01.tflite, into $CGATE_DATA_DIR/mlperf-tiny"
)


def digits_classifier() -> bytes:
    """Takes 8x8x1 and tells 10 classes apart, badly."""
    net = Net((1, 8, 8, 1), 4)
    skip = net.convolve(8, activation="RELU")
    net.convolve(8, depthwise=True, activation="RELU6")
    net.convolve(8)
    net.add(skip, "RELU")
    net.pool("MAX_POOL_2D", (2, 2), (2, 2))
    net.convolve(16, stride=2, activation="RELU")
    net.pool("AVERAGE_POOL_2D", (2, 2), (2, 2))
    net.reshape((1, 16))
    net.dense(10)
    net.softmax()
    return net.file()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("import")
    (folder / "net.tflite").write_bytes(digits_classifier())
    assert main(["export", str(folder / "net.tflite"), "--out", str(folder / "b"), "--quiet"]) == 0
    return folder / "b"


def call(capsys: Captured, *arguments: object, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)["data"]


def test_the_bundle_holds_the_file(bundle: Path) -> None:
    assert (bundle / "model.tflite").read_bytes() == digits_classifier()
    plan = load_bundle(bundle).plan
    assert plan.network.to_json() == {
        "name": "net", "input_shape": (8, 8, 1), "classes": 10, "source": "tflite"
    }  # fmt: skip
    assert [unit.role for unit in plan.units] == ["layer"] * 8 + ["head"]


def test_chain_on_this_machine(bundle: Path, capsys: Captured) -> None:
    needs_host()
    pytest.importorskip("tflite_runtime", reason='pip install "cgate[golden]"')
    pytest.importorskip("sklearn", reason='pip install "cgate[demo]"')
    on = [part for route in ("tflite", "network", "host") for part in ("--on", route)]
    found = call(capsys, "verify", bundle, *on, "--data", "digits", "--limit", 20)
    assert found["equal"] and found["patterns"] == ["learned"]
    assert "the imported file" in found["comparisons"][1]["tool"]
    ran = call(capsys, "run", bundle, "--on", "host", "--limit", 20)
    assert ran["data"] == "digits" and ran["macs"]["share"] == 1
    call(capsys, "report", bundle)
    assert "Everything runs" in (bundle / "report.html").read_text()
    assert call(capsys, "inspect", bundle)["network"] == "net"


@pytest.mark.qemu
def test_on_the_target(bundle: Path, capsys: Captured) -> None:
    needs_qemu()
    pytest.importorskip("sklearn", reason='pip install "cgate[demo]"')
    found = call(capsys, "verify", bundle, "--on", "qemu", "--data", "digits", "--limit", 3)
    assert found["equal"]


def test_a_changed_file_is_found_out(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("tflite_runtime", reason='pip install "cgate[golden]"')
    pytest.importorskip("sklearn", reason='pip install "cgate[demo]"')
    folder = tmp_path / "b"
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("build", "runs"))
    net = Net((1, 8, 8, 1), 5)
    net.reshape((1, 64))
    net.dense(10)
    (folder / "model.tflite").write_bytes(net.file())
    found = call(capsys, "verify", folder, "--on", "network", "--limit", 5, code=1)
    assert not found["equal"]


def test_chosen_images(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    needs_host()
    pytest.importorskip("sklearn", reason='pip install "cgate[demo]"')
    numbers = [7, 3, 399]
    np.save(tmp_path / "n.npy", np.array(numbers))
    (tmp_path / "n.txt").write_text("7 3\n399\n")
    for name in ("n.npy", "n.txt"):
        ran = call(capsys, "run", bundle, "--on", "host", "--images", tmp_path / name)
        assert json.loads(Path(ran["trace"]).read_text())["images"] == numbers
    # As many, but others: the one does not overwrite the other.
    first = call(capsys, "run", bundle, "--on", "host", "--limit", "3")
    assert first["trace"] != ran["trace"]
    for text in ("", "one", "400", "-1", "1.5"):
        (tmp_path / "n.txt").write_text(text)
        call(capsys, "run", bundle, "--on", "host", "--images", tmp_path / "n.txt", code=2)


@pytest.mark.parametrize("option", [["--threshold", "0.5"], ["--ranges", "minmax"], ["--onnx"]])
def test_options_of_checkpoints(
    option: list[str], bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    source = str(bundle / "model.tflite")
    assert main(["export", source, "--out", str(tmp_path / "b"), *option]) == 2
    assert "has its integers already" in " ".join(capsys.readouterr().err.split())


def test_no_such_file(tmp_path: Path, capsys: Captured) -> None:
    assert main(["export", str(tmp_path / "no.tflite"), "--out", str(tmp_path / "b")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_resnet8_of_mlperf_tiny() -> None:
    """All 200 images of the benchmark's runner: reference = TFLite's reference kernels."""
    pytest.importorskip("tflite_runtime", reason='pip install "cgate[golden]"')
    from cgate.core.targets import find_target
    from cgate.export.import_tflite import import_tflite

    folder = Path(os.environ.get("CGATE_DATA_DIR", "")) / "mlperf-tiny"
    if not (folder / "ic01.tflite").is_file():
        pytest.skip(HOW)
    try:
        images = load_dataset("cifar10").test.images
    except CgateError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    content = (folder / "ic01.tflite").read_bytes()
    plan, weights = import_tflite(content, "ic01", find_target("cortex-m4"), network="ic01")
    x = reference.to_input(images[np.load(folder / "perf_samples_idxs.npy")])
    (want,) = GoldenUnit(content)([x])
    assert len(x) == 200
    np.testing.assert_array_equal(reference.run(plan, weights, x).logits, want)

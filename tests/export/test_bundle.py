"""`cgate export` as a function: what it writes, that it always writes the same, what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS, Checkpoint
from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import json_text, read_json, write_json
from cgate.core.plan import load_bundle
from cgate.core.targets import find_target
from cgate.export import bundle as bundle_module
from cgate.export.bundle import export_checkpoint
from cgate.export.lower import lower
from synthetic import small_network, write_checkpoint

M4 = find_target("cortex-m4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), small_network(), seed=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_bundle_reads_back_as_the_same_plan(checkpoint: Checkpoint, tmp_path: Path) -> None:
    summary = export_checkpoint(checkpoint.folder, tmp_path / "b", M4, name="tiny")
    plan, weights = lower(checkpoint, M4, name="tiny")
    bundle = load_bundle(tmp_path / "b")
    assert bundle.plan == plan
    assert bundle.sha256 == summary.plan_sha256
    assert weights.keys() == bundle.weights.keys()
    for name, array in weights.items():
        assert (bundle.weights[name] == array).all()
        assert bundle.weights[name].dtype == array.dtype
    files = contents(tmp_path / "b")
    assert {"c/tiny.h", "c/tiny.c", "README.txt", "model.tflite"} <= files.keys()
    assert "units/00_stem.tflite" in files
    assert len([name for name in files if name.startswith("units/")]) == len(plan.units)


def test_same_bytes_in_another_process_and_folder(tmp_path: Path) -> None:
    """Every format, of a network with all that has names: gates, exits, packed weights."""
    pytest.importorskip("onnx", reason='onnx is missing: pip install "cgate[onnx]"')
    network = small_network(gate_downsampling=True, exits=("s1b0", "s2b1"))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", network)
    program = (
        "import sys; from pathlib import Path; from cgate.core.targets import find_target;"
        "from cgate.export.bundle import export_checkpoint;"
        "export_checkpoint(Path(sys.argv[1]), Path('out'), find_target('cortex-m4'), onnx=True);"
        "heavy = ('torch', 'tensorflow', 'keras', 'jax', 'onnxruntime', 'tflite_runtime');"
        "assert not sys.modules.keys() & set(heavy), 'export needs none of these'"
    )
    outputs = []
    for seed in ("1", "2"):
        folder = tmp_path / f"cwd{seed}"
        folder.mkdir()
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-c", program, str(checkpoint.folder)]
        subprocess.run(command, cwd=folder, env=environment, check=True, timeout=60)
        outputs.append(contents(folder / "out"))
    assert outputs[0] == outputs[1]
    for ending in (".json", ".npz", ".c", ".h", ".tflite", ".onnx", ".txt"):
        assert any(name.endswith(ending) for name in outputs[0]), ending
    text = b"".join(outputs[0].values())
    assert str(tmp_path).encode() not in text


def test_export_replaces_an_older_bundle_whole(checkpoint: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export_checkpoint(checkpoint.folder, out, M4, name="old")
    (out / "runs").mkdir()
    export_checkpoint(checkpoint.folder, out, M4, name="newer")
    assert not (out / "c/old.c").exists()
    assert not (out / "runs").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_export_does_not_touch_foreign_files(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CgateError, match="not empty and was not written by cgate"):
        export_checkpoint(checkpoint.folder, tmp_path, M4)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interrupted_export_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def interrupted(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(bundle_module, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(checkpoint.folder, tmp_path / "b", M4)
    assert list(tmp_path.iterdir()) == []


def test_a_model_too_big_for_the_flash_says_by_how_much(tmp_path: Path) -> None:
    wide = write_checkpoint(tmp_path, small_network(width=96), images=2)
    with pytest.raises(CgateError) as caught:
        export_checkpoint(wide.folder, tmp_path / "b", find_target("netduinoplus2"))
    assert caught.value.code == EXIT_CHECK_FAILED
    assert "does not fit netduinoplus2" in caught.value.message
    assert "of flash" in caught.value.message
    assert "mps2-an386" in caught.value.hint


def test_a_model_too_big_for_the_ram_says_by_how_much(tmp_path: Path) -> None:
    big = write_checkpoint(tmp_path, small_network(shape=(96, 96, 1)), images=2)
    with pytest.raises(CgateError, match="of RAM"):
        export_checkpoint(big.folder, tmp_path / "b", find_target("netduinoplus2"))


@pytest.mark.parametrize("name", ["", "Big", "int", "a-b", "../x", "cg_model", "class", "x" * 40])
def test_names_that_cannot_be_c_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    with pytest.raises(CgateError, match="identifier"):
        export_checkpoint(checkpoint.folder, tmp_path / "b", M4, name=name)


def damaged(source: Checkpoint, folder: Path, name: str, data: bytes | None) -> Path:
    """A copy of a checkpoint with one file replaced, or removed."""
    folder.mkdir()
    for each in (CARD, WEIGHTS, RANGES):
        (folder / each).write_bytes((source.folder / each).read_bytes())
    (folder / name).unlink()
    if data is not None:
        (folder / name).write_bytes(data)
    return folder


def test_damaged_checkpoints_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = (checkpoint.folder / WEIGHTS).read_bytes()
    cases = {
        "truncated": (WEIGHTS, weights[:-7], "truncated or no safetensors"),
        "text": (WEIGHTS, b"hello", "truncated or no safetensors"),
        "empty": (WEIGHTS, b"", "truncated or no safetensors"),
        "no weights": (WEIGHTS, None, "has no weights"),
        "no card": (CARD, None, "card is missing"),
        "no json": (CARD, b"{", "no valid JSON"),
        "foreign": (CARD, b'{"model": "resnet50"}', "no cgate checkpoint card"),
        "list": (CARD, b"[]", "no cgate checkpoint card"),
        "no ranges": (RANGES, None, "ranges is missing"),
        "empty ranges": (RANGES, b'{"schema": 1, "tensors": {}}', "no range for tensor"),
        "bad range": (RANGES, b'{"schema": 1, "tensors": {"stem": {"open": 3}}}', "is no range"),
    }
    for title, (name, data, message) in cases.items():
        folder = damaged(checkpoint, tmp_path / title, name, data)
        with pytest.raises(CgateError, match=message) as caught:
            export_checkpoint(folder, tmp_path / "out", M4)
        assert caught.value.hint
        assert not (tmp_path / "out").exists()


def test_weights_of_another_network_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path, small_network(width=4))
    (other.folder / WEIGHTS).write_bytes((checkpoint.folder / WEIGHTS).read_bytes())
    with pytest.raises(CgateError, match=r"stem.conv.weight is float32\[8, 1, 3, 3\]"):
        export_checkpoint(other.folder, tmp_path / "out", M4)


def test_a_corrupt_bundle_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export_checkpoint(checkpoint.folder, out, M4)
    plan = read_json(out / "plan.json", "plan")
    for key, value, message in (
        ("schema", 2, "schema is not 1"),
        ("arena_size", 16, "outside the arena"),
        ("rounding", "single", "rounding"),
        ("units", plan["units"][1:], "index"),
        ("tensors", plan["tensors"][1:], "no tensor 'input'"),
        ("name", 3, "name should be str"),
    ):
        write_json(out / "plan.json", {**plan, key: value})
        with pytest.raises(CgateError, match=message) as caught:
            load_bundle(out)
        assert caught.value.hint == "export the checkpoint again"
    write_json(out / "plan.json", plan)
    archive = (out / "weights.npz").read_bytes()
    for data in (b"", b"PK", archive[:-100], archive[:200] + b"\xff" * 50 + archive[250:]):
        (out / "weights.npz").write_bytes(data)
        with pytest.raises(CgateError):
            load_bundle(out)


def test_a_negative_variance_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = {name: array.copy() for name, array in checkpoint.weights.items()}
    weights["stem.bn.running_var"][0] = -1
    folder = damaged(checkpoint, tmp_path / "c", WEIGHTS, save(weights))
    with pytest.raises(CgateError, match=r"stem.bn.running_var holds a negative variance"):
        export_checkpoint(folder, tmp_path / "out", M4)


@pytest.mark.parametrize("data", [None, [], {"classes": None}, {"classes": "abc"}])
def test_a_card_without_class_names_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, data: object
) -> None:
    text = json_text({**checkpoint.card, "data": data})
    folder = damaged(checkpoint, tmp_path / "c", CARD, text.encode())
    with pytest.raises(CgateError, match="no list of class names"):
        export_checkpoint(folder, tmp_path / "out", M4)


def test_folders_mistaken_for_each_other_are_told_apart(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    bundle = tmp_path / "b"
    export_checkpoint(checkpoint.folder, bundle, M4)
    with pytest.raises(CgateError) as caught:
        export_checkpoint(bundle, tmp_path / "out", M4)
    assert "this is a bundle" in caught.value.hint
    with pytest.raises(CgateError) as caught:
        load_bundle(checkpoint.folder)
    assert f"cgate export {checkpoint.folder} --target" in caught.value.hint
    no_ranges = damaged(checkpoint, tmp_path / "ranges", RANGES, None)
    with pytest.raises(CgateError) as caught:
        export_checkpoint(no_ranges, tmp_path / "out", M4)
    assert caught.value.hint == f"cgate calibrate {no_ranges}"
    unfinished = damaged(checkpoint, tmp_path / "unfinished", CARD, None)
    (unfinished / "state.json").touch()
    with pytest.raises(CgateError) as caught:
        export_checkpoint(unfinished, tmp_path / "out", M4)
    assert "goes on" in caught.value.hint

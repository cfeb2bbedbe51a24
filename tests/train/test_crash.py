"""Training that is killed, runs out of disk, or is given bad data: what is left is still good."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

from cgate.core.data import SOURCES
from cgate.core.errors import CgateError
from cgate.core.files import json_text
from cgate.core.progress import Silent
from cgate.train.loop import train
from cgate.train.recipes import Recipe, find_recipe

SCRIPT = """
import json, os, resource, signal, sys
from pathlib import Path
from cgate.core.errors import CgateError
from cgate.core.progress import Silent
from cgate.train.loop import train
from cgate.train.recipes import recipe_from_json

class Trouble(Silent):
    def advance(self, steps=1, note=""):
        # In the middle of the third of three epochs.
        if sys.argv[3] == "kill" and note.startswith("epoch 3/"):
            os.kill(os.getpid(), signal.SIGKILL)
    def message(self, text):
        if sys.argv[3] == "full" and text.startswith("epoch 2/"):
            # From now on no file can grow beyond 8 kB, as on a disk that is full.
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

recipe = recipe_from_json(json.loads(sys.argv[1]))
try:
    train(recipe, Path(sys.argv[2]), progress=Trouble())
except CgateError as error:
    print(error.message)
    sys.exit(error.code)
"""


@pytest.mark.parametrize("trouble", ["kill", "full"])
def test_at_most_the_running_epoch_is_lost(
    trained: Path, tiny: Recipe, tmp_path: Path, trouble: str
) -> None:
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json_text(tiny.to_json()), str(out), trouble],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if trouble == "kill":
        assert done.returncode == -signal.SIGKILL
    else:
        assert done.returncode == 2, done.stderr
        assert f"cannot write {out / 'last.safetensors'}: File too large" in done.stdout
        assert not list(out.glob(".*")), "a file that could not be written was left behind"
    heard: list[str] = []

    class Recorder(Silent):
        def message(self, text: str) -> None:
            heard.append(text)

    train(tiny, out, progress=Recorder())
    assert "going on after epoch 2 of 3" in heard
    for name in ("model.safetensors", "log.csv", "ranges.json"):
        assert (out / name).read_bytes() == (trained / name).read_bytes(), name


def test_a_run_that_was_killed_before_its_first_epoch_begins_again(
    tiny: Recipe, tmp_path: Path
) -> None:
    class Killed(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(tiny, tmp_path, progress=Killed())
    assert (tmp_path / "run.json").exists() and not (tmp_path / "last.safetensors").exists()
    train(tiny, tmp_path, progress=Silent())
    assert (tmp_path / "card.json").exists()


def test_missing_and_corrupt_data_are_clear_errors_that_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CGATE_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = replace(find_recipe("balanced"), epochs=1)
    out = tmp_path / "run"
    with pytest.raises(CgateError, match="cifar10 was not found; looked at") as caught:
        train(recipe, out, data_dir=tmp_path / "data", progress=Silent())
    assert "cgate data download cifar10" in caught.value.hint
    source = SOURCES["cifar10"]
    folder = tmp_path / "data" / source.folder
    folder.mkdir(parents=True)
    for file in source.files:
        (folder / file).write_bytes(b"not what was published")
    with pytest.raises(CgateError, match=r"data_batch_1 is corrupt: its md5 is"):
        train(recipe, out, data_dir=tmp_path / "data", progress=Silent())
    assert not out.exists()


def test_data_that_breaks_between_two_runs_leaves_the_good_epoch(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Silent):
        def message(self, text: str) -> None:
            if text.startswith("epoch 1/"):
                raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny, out, progress=Stop())
    kept = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert {"last.safetensors", "state.json"} <= kept.keys()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(CgateError, match="scikit-learn"):
        train(tiny, out, progress=Silent())
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == kept
    shutil.rmtree(out)

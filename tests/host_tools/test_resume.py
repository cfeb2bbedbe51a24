"""A run that was stopped goes on, and ends with the bytes of one that was not."""

import shutil
from pathlib import Path

import pytest

from cgate.core.plan import load_bundle
from cgate.core.progress import Silent
from cgate.host_tools import resume
from cgate.host_tools.evaluate import evaluate
from cgate.host_tools.inputs import Inputs, load_inputs


class Stops(Silent):
    """Ctrl-C after so many images; remembers how many came."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.messages: list[str] = []

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count down."""
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        """Keep the text."""
        self.messages.append(text)


@pytest.fixture
def bundle(digits_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to write runs into."""
    return Path(shutil.copytree(digits_bundle, tmp_path / "bundle"))


@pytest.fixture
def inputs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """Enough images for three chunks."""
    monkeypatch.setattr(resume, "CHUNK", 8)
    return load_inputs(load_bundle(bundle).plan, limit=20)


@pytest.mark.parametrize("damage", [b"", b'[{"label": 3, "deci'])
def test_a_stopped_run_goes_on(bundle: Path, inputs: Inputs, damage: bytes) -> None:
    whole = evaluate(bundle, inputs, on="host", name="whole", jobs=1, progress=Silent())[1]
    with pytest.raises(KeyboardInterrupt):
        evaluate(bundle, inputs, on="host", name="parts", jobs=1, progress=(stops := Stops(17)))
    assert stops.messages == ["stopped with 16 of 20 images kept; the same command goes on there"]
    partial = bundle / "runs" / "parts" / resume.PARTIAL
    with partial.open("ab") as stream:
        stream.write(damage)
    shown = Stops(1000)
    parts = evaluate(bundle, inputs, on="host", name="parts", jobs=1, progress=shown)[1]
    assert shown.messages == ["going on after image 16 of 20"]
    assert parts.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_results_of_another_run_are_not_taken(bundle: Path, inputs: Inputs) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(bundle, inputs, on="host", gates="shut", name="run", jobs=1, progress=Stops(17))
    shown = Stops(1000)
    got = evaluate(bundle, inputs, on="host", name="run", jobs=1, progress=shown)[0]
    assert shown.messages == []
    wanted = evaluate(bundle, inputs, on="host", name="whole", jobs=1, progress=Silent())[0]
    assert got == wanted


def test_counted_runs_go_on_too(bundle: Path, inputs: Inputs) -> None:
    whole = evaluate(bundle, inputs, name="whole", jobs=1, progress=Silent())[1]
    with pytest.raises(KeyboardInterrupt):
        evaluate(bundle, inputs, name="parts", jobs=1, progress=Stops(9))
    parts = evaluate(bundle, inputs, name="parts", jobs=1, progress=Silent())[1]
    assert parts.read_bytes() == whole.read_bytes()

from dataclasses import replace
from pathlib import Path

import pytest

from cgate.core.network import Gate
from cgate.core.progress import Silent
from cgate.train.recipes import Recipe, find_recipe

TINY = replace(
    find_recipe("demo"),
    name="tiny",
    model="resnet8",
    width=0.25,
    gate=Gate("controller", 4),
    epochs=3,
    limit=200,
    batch=50,
)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small gain nothing from threads, which only wait for each other."""
    torch = pytest.importorskip("torch", reason='pip install "cgate[train]"')
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe that trains in a second."""
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    return TINY


@pytest.fixture(scope="session")
def trained(tiny: Recipe, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished checkpoint of `tiny`. Read only."""
    from cgate.train.loop import train

    out = tmp_path_factory.mktemp("tiny") / "checkpoint"
    train(tiny, out, progress=Silent())
    return out

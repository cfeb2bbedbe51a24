import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small gain nothing from threads, which only wait for each other."""
    torch = pytest.importorskip("torch", reason='pip install "cgate[train]"')
    torch.set_num_threads(1)

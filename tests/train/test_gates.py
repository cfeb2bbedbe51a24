import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.core.network import THRESHOLD
from cgate.train.gates import (
    CUT,
    all_open,
    at_random,
    fixed,
    learned,
    relaxed,
    shuffled,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_cut_is_where_the_sigmoid_is_the_threshold() -> None:
    assert 1 / (1 + math.exp(-CUT)) == pytest.approx(THRESHOLD)
    assert pytest.approx(-0.2007, abs=1e-4) == CUT


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=20), st.floats(0.1, 2))
def test_without_noise_the_training_gate_is_the_deployed_gate(
    values: list[float], temperature: float
) -> None:
    logits = torch.tensor(values)
    logits = logits[(logits - CUT).abs() > 1e-5]
    gates = relaxed(temperature, 0.0, generator())("s1b0", logits)
    assert torch.equal(gates.round(), learned("s1b0", logits))
    # Straight-through: hard + soft - soft leaves at most a rounding error.
    torch.testing.assert_close(gates, gates.round(), atol=1e-6, rtol=0)


def test_hard_and_soft_gates_have_the_same_gradient() -> None:
    gradients = []
    for hard in (True, False):
        logits = torch.linspace(-3, 3, 31, requires_grad=True)
        relaxed(0.7, 1.0, generator(), hard)("s1b0", logits).sum().backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)
    assert (gradients[0] > 0).all()


def test_noise_has_the_logistic_distribution() -> None:
    # P(l - CUT + logistic > 0) = sigmoid(l - CUT), the property that names the relaxation.
    count = 200_000
    for logit in (-2.0, CUT, 1.0):
        gates = relaxed(1.0, 1.0, generator())("s1b0", torch.full((count,), logit))
        expected = 1 / (1 + math.exp(-(logit - CUT)))
        assert gates.mean().item() == pytest.approx(expected, abs=5 / math.sqrt(count))


def test_fixed_policies() -> None:
    logits = torch.tensor([-5.0, 5.0, 0.0])
    assert all_open("a", logits).tolist() == [1, 1, 1]
    policy = fixed({"a": True, "b": False})
    assert policy("a", logits).tolist() == [1, 1, 1]
    assert policy("b", logits).tolist() == [0, 0, 0]


def test_random_policies_are_seeded() -> None:
    logits = torch.linspace(-2, 2, 1000)
    assert torch.equal(at_random(generator(1))("a", logits), at_random(generator(1))("a", logits))
    assert 0.4 < at_random(generator(1))("a", logits).mean() < 0.6
    permuted = shuffled(generator(1))("a", logits)
    assert permuted.sum() == learned("a", logits).sum()
    assert not torch.equal(permuted, learned("a", logits))

"""Operations on maps: their derivatives against finite differences, bfloat16 against float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from torch import Tensor

from cgate.train import maps
from cgate.train.gates.cir import incompatibility

SHAPES = [(2, 2, 4, 8), (3, 2, 5, 3), (1, 1, 1, 1)]


def random(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_are_those_of_finite_differences(shape: tuple[int, int, int, int]) -> None:
    a, b = (random(shape, seed).requires_grad_() for seed in (0, 1))
    gates = torch.rand(shape[0], dtype=torch.float64, requires_grad=True)
    if shape[1] > 1:  # the angle of two numbers is constant, and jumps where one is zero
        assert torch.autograd.gradcheck(maps.cosine, (a, b))
    assert torch.autograd.gradcheck(maps.mean, (a,))
    assert torch.autograd.gradcheck(maps.peak, (a,))
    for images in ([], [0], list(range(shape[0]))):
        chosen = torch.tensor(images, dtype=torch.int64)
        assert torch.autograd.gradcheck(
            lambda s, f, g, c=chosen: maps.branch(s, f, g, c), (a, b, gates)
        )


def test_a_branch_is_a_gated_sum_and_an_open_one() -> None:
    stream, residual = random((5, 2, 4, 4), 0), random((5, 2, 4, 4), 1)
    gates = torch.tensor([0.0, 1.0, 0.3, 0.0, 1.0], dtype=torch.float64)
    images = torch.tensor([0, 3])
    whole, opened, actual = maps.branch(stream, residual, gates, images)
    torch.testing.assert_close(whole, stream + gates[:, None, None, None] * residual)
    torch.testing.assert_close(opened, (stream + residual)[images])
    torch.testing.assert_close(actual, whole[images])


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 1000),
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    st.floats(-3, 3),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_cir_is_that_of_a_float64_oracle(
    seed: int, shape: tuple[int, int, int, int], along: float, dtype: torch.dtype
) -> None:
    x = random(shape, seed)
    f = random(shape, seed + 1) + along * x
    x, f = x.to(dtype), f.to(dtype)
    found = incompatibility(x, f)
    assert found.dtype == torch.float32 and found.shape == (shape[0],)
    for i in range(shape[0]):
        a, b = (np.asarray(values[i].double()).reshape(-1) for values in (x, f))
        expected = 1 - (a @ b) / np.sqrt((a @ a) * (b @ b))
        assert found[i].item() == pytest.approx(expected, abs=1e-5)


def test_an_empty_map_is_at_right_angles_and_pulls_at_nothing() -> None:
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    f = torch.ones(2, 3, 4, 4, requires_grad=True)
    cir = incompatibility(x, f)
    assert cir.tolist() == [1.0, 1.0]
    cir.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and f.grad is not None
    assert not x.grad.any() and not f.grad.any()


def test_gradients_keep_the_layout() -> None:
    # Another layout is as right, and makes everything behind it several times slower.
    a, b = (random((4, 8, 6, 6), seed, torch.bfloat16).requires_grad_() for seed in (0, 1))
    gates = torch.rand(4, requires_grad=True)
    sums = maps.branch(a, b, gates, torch.tensor([1, 2]))
    loss = sum(each.float().sum() for each in sums) + maps.cosine(a, b).sum() + maps.mean(a).sum()
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    for value in (a, b):
        assert value.grad is not None
        assert value.grad.is_contiguous(memory_format=torch.channels_last)

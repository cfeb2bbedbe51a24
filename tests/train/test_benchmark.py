import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

from cgate.train.benchmark import estimate_epoch
from cgate.train.recipes import Recipe


def test_an_estimate_is_steps_per_epoch_times_the_step(tiny: Recipe) -> None:
    estimate = estimate_epoch(tiny, 2)
    assert (estimate.steps, estimate.batch, estimate.network) == (2, 50, "resnet8-x0.25")
    # 200 images in batches of 50.
    expected = 4 * estimate.step_seconds + estimate.validation_seconds
    assert estimate.epoch_seconds == pytest.approx(expected)
    assert estimate.step_seconds > 0


def test_no_more_steps_than_an_epoch_has_are_timed(tiny: Recipe) -> None:
    assert estimate_epoch(tiny, 1000).steps == 4

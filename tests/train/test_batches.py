import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.train.batches import Batches


def images(count: int = 10, height: int = 5, width: int = 6) -> torch.Tensor:
    # Every pixel of every image is different, so that a moved image shows where it came from.
    values = torch.arange(1, count * height * width * 2 + 1) % 251 + 1
    return values.to(torch.uint8).reshape(count, height, width, 2)


def moves(image: torch.Tensor, shift: int, flip: bool, fill: int) -> list[torch.Tensor]:
    """All augmented forms of an image, by rolling a padded canvas."""
    height, width, channels = image.shape
    canvas = image.new_full((height + 2 * shift, width + 2 * shift, channels), fill)
    canvas[shift : shift + height, shift : shift + width] = image
    forms = [
        canvas[y : y + height, x : x + width]
        for y in range(2 * shift + 1)
        for x in range(2 * shift + 1)
    ]
    return forms + ([form.flip(1) for form in forms] if flip else [])


@pytest.mark.parametrize(("shift", "flip"), [(0, False), (1, False), (2, True)])
def test_every_image_comes_once_moved_in_an_allowed_way(shift: int, flip: bool) -> None:
    pixels, labels = images(), torch.arange(10)
    batches = Batches(pixels, labels, 5, shift=shift, flip=flip, fill=0)
    seen: set[int] = set()
    forms = set()
    for epoch in range(30):
        drawn = []
        for batch, names in batches.epoch(torch.Generator().manual_seed(epoch)):
            assert batch.shape == (5, 5, 6, 2) and batch.dtype == torch.uint8
            drawn += names.tolist()
            for image, label in zip(batch, names.tolist(), strict=True):
                allowed = moves(pixels[label], shift, flip, 0)
                matches = [i for i, form in enumerate(allowed) if torch.equal(form, image)]
                assert matches
                forms.add(matches[0])
        assert sorted(drawn) == list(range(10))
        seen.update(drawn)
    assert len(forms) == (2 * shift + 1) ** 2 * (2 if flip else 1)


def test_what_moves_in_has_the_fill_value() -> None:
    batches = Batches(images(), torch.arange(10), 10, shift=2, flip=False, fill=0)
    ((batch, _),) = batches.epoch(torch.Generator().manual_seed(0))
    assert (batch == 0).any() and not (images() == 0).any()


def test_the_rest_of_an_epoch_is_dropped() -> None:
    batches = Batches(images(), torch.arange(10), 4, shift=0, flip=False, fill=0)
    assert len(batches) == len(list(batches.epoch(torch.Generator()))) == 2


def test_an_epoch_depends_on_its_generator_alone() -> None:
    batches = Batches(images(), torch.arange(10), 5, shift=1, flip=True, fill=0)

    def epoch(seed: int) -> list[torch.Tensor]:
        return [batch for batch, _ in batches.epoch(torch.Generator().manual_seed(seed))]

    first, other, again = epoch(1), epoch(2), epoch(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))

"""Training batches: the order of an epoch, and random shifts and mirrors of its images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from cgate.core.errors import CgateError
from cgate.train.world import ALONE, World


class Batches:
    """Epochs over a training split, augmented.

    Args:
        images: uint8 [N, H, W, C].
        labels: int64 [N].
        batch: images per batch; the rest of an epoch is dropped.
        shift: images move by up to this many pixels each way; what moves in is `fill`.
        flip: whether half of the images are mirrored left to right.
        fill: pixel value that moves in; the data set's input_zero is 0.0 to the network.
        world: the ranks that share each batch; this one takes its part, in order.

    Raises:
        CgateError: the ranks cannot share a batch evenly.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch: int,
        *,
        shift: int,
        flip: bool,
        fill: int,
        world: World = ALONE,
    ) -> None:
        if batch % world.size:
            raise CgateError(
                f"a batch of {batch} cannot be shared by {world.size} processes",
                "choose a number of processes that divides it",
            )
        height, width = images.shape[1:3]
        padded = functional.pad(images, (0, 0, shift, shift, shift, shift), value=fill)
        # A view [N, offsets, offsets, H, W, C]: indexing it copies whole rows of pixels, which is
        # far faster than gathering each pixel by index.
        self._windows = padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
        self._labels = labels
        self._batch = batch
        self._flip = flip
        self._world = world

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._labels) // self._batch

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of (images uint8 [n, H, W, C], labels int64 [n]), n = batch / ranks.

        Args:
            generator: a CPU generator; it alone decides order, shifts and mirrors, and is to be
                the same on all ranks.
        """
        device = self._labels.device
        offsets = self._windows.shape[1]
        count = self._batch // self._world.size
        order = torch.randperm(len(self._labels), generator=generator)
        moves = torch.randint(offsets, (2, len(order)), generator=generator).to(device)
        mirror = (torch.rand(len(order), generator=generator) < 0.5).to(device)
        order = order.to(device)
        for step in range(len(self)):
            start = step * self._batch + self._world.rank * count
            part = slice(start, start + count)
            images = self._windows[order[part], moves[0, part], moves[1, part]]
            if self._flip:
                images = torch.where(mirror[part, None, None, None], images.flip(2), images)
            yield images, self._labels[order[part]]

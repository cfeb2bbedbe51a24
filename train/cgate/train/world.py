"""Several processes that train one network: who they are, and what they tell each other.

`torchrun` starts them, on one machine or on many. Each computes the gradient of its part of a
batch; the mean of the gradients moves the same weights on all of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cgate.core.errors import CgateError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run and the place of this one, 0..size-1. Rank 0 alone writes files."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each floating-point tensor by its mean over the ranks, in one message.

        One message at the end of a step is simpler than torch's DistributedDataParallel, which
        overlaps many with the backward pass: that pays for networks far larger than these. And
        a tensor that got no gradient on any rank needs no special care.
        """
        if self.size == 1:
            return
        kept = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in kept])
        dist.all_reduce(flat)
        parts = torch.split(flat / self.size, [tensor.numel() for tensor in kept])
        for tensor, part in zip(kept, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def part(self, values: T) -> T:
        """This rank's share of a sequence or array: every size-th item."""
        share: T = values[self.rank :: self.size]  # type: ignore[index]
        return share

    def gather(self, values: Tensor, total: int) -> Tensor:
        """What all ranks computed for their `part` of `total` items, in order, on every rank.

        Args:
            values: numbers [items of this rank, ...].
        """
        if self.size == 1:
            return values
        everything = values.new_zeros((total, *values.shape[1:]))
        everything[self.rank :: self.size] = values
        dist.all_reduce(everything)
        return everything


ALONE = World()


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the processes that `torchrun` started, or be alone outside of it.

    Raises:
        CgateError: the environment speaks of several processes but not of the place of this one.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        yield ALONE
        return
    try:
        world = World(int(os.environ["RANK"]), int(size))
        local = int(os.environ["LOCAL_RANK"])
    except (KeyError, ValueError) as error:
        raise CgateError(
            f"WORLD_SIZE is {size}, but RANK or LOCAL_RANK is missing or no number",
            "start several processes with torchrun",
        ) from error
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield world
    finally:
        dist.destroy_process_group()

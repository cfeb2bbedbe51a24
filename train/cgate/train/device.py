"""Where training runs, and what is done there that does not pay elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from cgate.train.models import GatedResNet

SPECIALISATIONS = 64
"""Compiled forms of one function that torch keeps before it gives up; one per block shape."""


def pick_device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(device: torch.device) -> str:
    """The device's name for the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def fast_dtype(device: torch.device) -> str:
    """The dtype of convolutions that `device` trains fastest with, a key of `Recipe.dtype`.

    A CPU without bfloat16 instructions emulates them, which takes longer than float32.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = (
            torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
        )
    return "bfloat16" if fast else "float32"


@contextlib.contextmanager
def compiled_bodies(model: GatedResNet, backend: str | Callable[..., object]) -> Iterator[None]:
    """Run the blocks' bodies, where nearly all the work is, through torch.compile.

    Bodies alone: they hold no decision, no random number and no callback, so that nothing but
    their shape makes torch compile again. Blocks of one shape share what is compiled.

    Args:
        backend: of torch.compile, such as "inductor".
    """
    blocks = list(model.blocks.values())
    with torch._dynamo.config.patch(cache_size_limit=SPECIALISATIONS):
        for block in blocks:
            # An attribute of the instance hides the method of the class until it is deleted.
            block.body = torch.compile(block.body, backend=backend, dynamic=False)  # type: ignore
        try:
            yield
        finally:
            for block in blocks:
                del block.body


@contextlib.contextmanager
def accelerated(model: GatedResNet, device: torch.device) -> Iterator[None]:
    """What makes training faster on `device`; nothing on a CPU, where compiling costs more."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with compiled_bodies(model, "inductor"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before

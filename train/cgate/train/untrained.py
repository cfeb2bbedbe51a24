"""Networks with random weights as checkpoints: for measuring what a network costs, without data."""

from __future__ import annotations

from pathlib import Path

import torch

from cgate.core.network import Network
from cgate.train.fromtorch import write_model
from cgate.train.models import GatedResNet

_SETTLING = 30  # steps of a running mean that moves by a tenth: 4 % of its start are left


def write_untrained(out: Path, network: Network, seed: int, images: int = 16) -> None:
    """Write a network with random weights.

    Its batch norms take the statistics of random images, so that activations keep their size
    through all layers, as those of a trained network do.

    Args:
        out: the checkpoint's folder; an older checkpoint there is replaced.
        seed: of weights and images.
        images: how many of them statistics and ranges are taken on.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (images, *network.input_shape)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GatedResNet(network)
    with torch.no_grad():
        for _ in range(_SETTLING):
            model.train()(pixels)
    write_model(out, model.eval(), pixels)

"""Trained checkpoints that another run begins with: its first weights, or its teacher."""

from __future__ import annotations

from pathlib import Path

from cgate.core.errors import CgateError
from cgate.core.network import Network
from cgate.train.models import GatedResNet
from cgate.train.narrow import is_narrower, narrowed
from cgate.train.ranges import load_model


def start_from(model: GatedResNet, folder: Path) -> None:
    """Put the weights of the checkpoint in `folder` into `model`, trunk and head at least.

    Gates and exits that the checkpoint lacks, or has of another kind, keep their own. Of a wider
    checkpoint of the same network the channels with the largest filters are taken.

    Raises:
        CgateError: `folder` is no checkpoint, or of another trunk; the message names a weight.
    """
    wide = load_model(folder)[0]
    given = wide.state_dict()
    own = model.state_dict()
    if is_narrower(model.network, wide.network):
        given = narrowed(given, wide.network, model.network)
    found = {
        name: value
        for name, value in given.items()
        if name in own and own[name].shape == value.shape
    }
    lacking = [name for name in own if name not in found and not _optional(name)]
    if lacking:
        raise CgateError(
            f"{folder} cannot start this network: it has no {lacking[0]} of this shape",
            "choose the --network and --width of that checkpoint",
        )
    model.load_state_dict({**own, **found})


def _optional(name: str) -> bool:
    return ".gate." in name or name.startswith("exits.")


def load_teacher(folder: Path, network: Network) -> GatedResNet:
    """The model of the checkpoint in `folder`, in evaluation mode, for pupils like `network`.

    Raises:
        CgateError: `folder` is no checkpoint, or was trained for other images or classes.
    """
    teacher = load_model(folder)[0]

    def task(of: Network) -> tuple[object, ...]:
        return of.input_shape, of.input_zero, of.input_divisor, of.classes

    if task(teacher.network) != task(network):
        raise CgateError(
            f"{folder} cannot teach this network: it takes other images or tells other classes",
            "choose a --teacher that was trained on the same --data",
        )
    return teacher.requires_grad_(False)

"""Which images a bundle is run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.imported import ImportedNetwork
from cgate.core.plan import Plan

# What tells data sets apart without loading them: shape of an image, number of classes, and the
# name of the first class.
KNOWN = {
    "digits": ((8, 8, 1), 10, "0"),
    "cifar10": ((32, 32, 3), 10, "airplane"),
    "cifar100": ((32, 32, 3), 100, "apple"),
    "mnist": ((28, 28, 1), 10, "0"),
    "svhn": ((32, 32, 3), 10, "0"),
}


@dataclass(frozen=True)
class Inputs:
    """Images of one split.

    Args:
        indices: places in the split [n].
        images: uint8 [n, H, W, C].
        labels: true classes [n].
        available: size of the whole split.
    """

    data: str
    split: str
    indices: NDArray[np.int64]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    available: int


def guess_data(plan: Plan) -> str:
    """The data set with the network's input shape and number of classes.

    If several have them, the one whose first class has the name in the plan, else the first.

    Raises:
        CgateError: no known data set has them.
    """
    shape, classes = plan.network.input_shape, plan.network.classes
    fitting = {name: first for name, (*known, first) in KNOWN.items() if known == [shape, classes]}
    if fitting:
        # The classes of an imported network are numbers, which name nothing.
        known = () if isinstance(plan.network, ImportedNetwork) else plan.classes[:1]
        named = [name for name, first in fitting.items() if first in known]
        return (named or list(fitting))[0]
    raise CgateError(
        f"no known data set has images of {_shape(shape)} in {classes} classes; known are "
        + ", ".join(f"{name} ({_shape(s)}, {c} classes)" for name, (s, c, _) in KNOWN.items()),
        "choose one with --data NAME",
    )


def _shape(shape: tuple[int, int, int]) -> str:
    return "x".join(str(size) for size in shape)


def load_inputs(
    plan: Plan,
    data: str | None = None,
    *,
    data_dir: Path | None = None,
    split: str = "test",
    limit: int | None = None,
    chosen: Path | None = None,
) -> Inputs:
    """The first `limit` images of a split (None: all), checked against the network.

    Args:
        chosen: a file of image numbers; those are taken, in this order, instead of all.
        data: name of the data set; None takes the one that fits the network.

    Raises:
        CgateError: the data set is unknown, not found, or does not fit the network.
    """
    name = data or guess_data(plan)
    dataset = load_dataset(name, data_dir)
    network = plan.network
    if dataset.input_shape != network.input_shape or len(dataset.classes) != network.classes:
        raise CgateError(
            f"{name} has images of {_shape(dataset.input_shape)} in {len(dataset.classes)} "
            f"classes, but {network.name} takes {_shape(network.input_shape)} "
            f"and tells {network.classes} classes apart",
            "leave --data out, or choose the data set that the network was trained on",
        )
    part = dataset.split(split)
    numbers = np.arange(len(part)) if chosen is None else _image_numbers(chosen, len(part))
    numbers = numbers[:limit].astype(np.int64)
    return Inputs(name, split, numbers, part.images[numbers], part.labels[numbers], len(part))


def _image_numbers(path: Path, available: int) -> NDArray[np.int64]:
    """The image numbers in a .npy file, or in a text file separated by spaces or lines."""
    try:
        if path.suffix == ".npy":
            numbers = np.load(path, allow_pickle=False)
        else:
            numbers = np.array([int(word) for word in path.read_text().split()], np.int64)
    except (OSError, ValueError, EOFError) as error:
        raise CgateError(
            f"{path} holds no image numbers: {error}", "one whole number a line, or a .npy of them"
        ) from error
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or len(numbers) == 0:
        raise CgateError(
            f"{path} holds no list of whole numbers", "one whole number a line, or a .npy of them"
        )
    if numbers.min() < 0 or numbers.max() >= available:
        raise CgateError(
            f"{path} names images {numbers.min()} to {numbers.max()}",
            f"there are {available}, from 0 to {available - 1}",
        )
    whole: NDArray[np.int64] = numbers.astype(np.int64)
    return whole

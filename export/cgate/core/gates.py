"""Gate kinds: what each looks at, what it weighs, and why some cannot be exported. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

POOL = 4
"""A probe looks at the map at a quarter of its height and width."""


CIR_USUAL, CIR_SPREAD = 1.0, 0.1
"""A predicted CIR is CIR_USUAL + CIR_SPREAD * what the predictor's layers say: maps that have
nothing to do with each other are at 1, and images differ by about a tenth."""

NORM_EPSILON = 1e-5
"""Of the batch norm of the predictor's statistics."""


@dataclass(frozen=True)
class Gate:
    """The gate of a block.

    Args:
        kind: a key of GATE_KINDS.
        hidden: units between the two linear layers of the kinds that have such layers.
        rate: of "random": share of the images whose gate is open; None for all other kinds.
    """

    kind: str = "controller"
    hidden: int = 16
    rate: float | None = None


@dataclass(frozen=True)
class GateKind:
    """What is known of a kind of gate without running it.

    Args:
        looks_at: what the decision depends on, for people.
        needs_body: whether the decision needs F(x), so that the body runs for every image.
        refusal: why the kind cannot be exported; empty if it can.
    """

    looks_at: str
    needs_body: bool = False
    refusal: str = ""


GATE_KINDS: Mapping[str, GateKind] = {
    "controller": GateKind("the mean of x over the map"),
    "cir": GateKind(
        "the angle between x and F(x), and the mean of x over the map",
        needs_body=True,
        refusal="its decision needs F(x), the body that it would skip",
    ),
    "cir-predicted": GateKind("the mean and the maximum of x over the map"),
    "probe": GateKind(
        f"the angle between x and F(x), both at 1/{POOL} of the height and width",
        refusal="an angle between maps has no exact form in integers",
    ),
    "static": GateKind("nothing: one constant per block"),
    "random": GateKind(
        "a checksum of the pixels",
        refusal="it is a control for experiments, and a checksum of the pixels saves nothing",
    ),
    "anchor": GateKind("the direction of the mean of x over the map"),
}


def probe_pool(height: int, width: int) -> int:
    """Side of the squares that a probe averages on a map of this size."""
    return min(POOL, height, width)

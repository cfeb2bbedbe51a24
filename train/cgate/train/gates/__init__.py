"""Gates: the layers that score a block, and the policies that turn scores into decisions.

A gate kind is a `GateModule` that maps what it may see of an image to a logit; a policy maps
logits to gate values. The relaxation for training, noise and temperature are those of the policy,
so that all kinds share them. A new kind needs a row in `cgate.core.gates`, its cost in
`cgate.core.network.gate_macs`, a class in KINDS and, to be exported, a lowering.
"""

from cgate.train.gates.base import GateModule, GateOptions, Score, Seen, Statistics, image_keys
from cgate.train.gates.kinds import KINDS, build_gate
from cgate.train.gates.policies import (
    CUT,
    GatePolicy,
    all_open,
    at_random,
    fixed,
    learned,
    relaxed,
    shuffled,
)

__all__ = [
    "CUT",
    "KINDS",
    "GateModule",
    "GateOptions",
    "GatePolicy",
    "Score",
    "Seen",
    "Statistics",
    "all_open",
    "at_random",
    "build_gate",
    "fixed",
    "image_keys",
    "learned",
    "relaxed",
    "shuffled",
]

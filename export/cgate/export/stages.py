"""Which blocks share a stream, how each adds to it, and the stream's scale (SPEC.md 5.4 to 5.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from cgate.core.network import Block, Network
from cgate.export.quantize import RangeTable, Scale

STEM = "stem"


class Form(Enum):
    """How a block's output comes about.

    Attributes:
        STREAM: F is added to the stream in place, at the stream's scale.
        SUM: a new stream is the sum of F and of what the shortcut leaves, each at its own scale.
        PLAIN: no addition; the last convolution writes the new stream.
    """

    STREAM = "stream"
    SUM = "sum"
    PLAIN = "plain"


@dataclass(frozen=True)
class Stage:
    """Blocks with one stream; the first one's shortcut, or the stem, begins it.

    Args:
        scale: of the stream, and of every F that is added to it in place.
        blocks: each with its form; forms other than STREAM stand first in their stage.
    """

    scale: Scale
    blocks: tuple[tuple[Block, Form], ...]


class _Open:
    """A stage to which blocks are still added."""

    def __init__(self, start: str, positive: bool) -> None:
        self.names = [start]
        self.blocks: list[tuple[Block, Form]] = []
        # Whether the stream starts without negative values.
        self.positive = positive
        # Whether a ReLU follows the additions of the stage; None as long as there are none.
        self.relu: bool | None = None

    @property
    def stays_positive(self) -> bool:
        return self.positive and self.relu is not False

    def takes(self, block: Block) -> bool:
        """Whether the block can add in place and leave the stream's sign as it is.

        The addition saturates, which is a ReLU where the stream has the zero point -128 and
        nothing where it has another one: so all blocks of a stage agree, and a ReLU that would
        change a shut block's stream starts a new one.
        """
        if block.relu6 or self.relu not in (None, block.relu):
            return False
        return self.positive or not block.relu

    def add(self, block: Block, form: Form) -> None:
        self.blocks.append((block, form))
        self.names.append(f"{block.name}.out")
        if form is Form.STREAM:
            self.relu = block.relu


def _begun_by(block: Block, before: _Open, gated: bool) -> _Open:
    """The stage that begins with a block which cannot add to the stream as it is."""
    name = block.name
    if block.shortcut == "none":
        stage = _Open(f"{name}.out", block.relu)
        stage.add(block, Form.PLAIN)
        return stage
    positive = block.shortcut != "projection" and before.stays_positive
    stage = _Open(f"{name}.shortcut", positive)
    if block.shortcut != "identity" and stage.takes(block):
        stage.add(block, Form.STREAM)
        return stage
    # Where the body is skipped, the stream is the shortcut after the activation.
    skipped = before.names[-1] if block.shortcut == "identity" else f"{name}.shortcut"
    stage = _Open(skipped if gated else f"{name}.out", block.relu)
    stage.add(block, Form.SUM)
    return stage


def stages(network: Network, ranges: RangeTable, settled: Mapping[str, bool]) -> list[Stage]:
    """Split the network's blocks where the stream changes and give each stream its scale.

    Args:
        settled: whether the body runs, of the blocks whose gate is a constant.
    """
    groups = [_Open(STEM, True)]
    for block in network.blocks:
        if block.shortcut == "identity" and groups[-1].takes(block):
            groups[-1].add(block, Form.STREAM)
        else:
            groups.append(_begun_by(block, groups[-1], block.gate is not None))
    made = []
    for group in groups:
        bodies = [
            f"{block.name}.conv{len(block.body)}"
            for block, form in group.blocks
            if form is Form.STREAM and settled.get(block.name, True)
        ]
        scale = ranges.stream(group.names, bodies, group.stays_positive)
        made.append(Stage(scale, tuple(group.blocks)))
    return made

"""`cgate freeze`: the same answers as the gated network with each gate held at one decision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.core.checkpoint import load_checkpoint
from cgate.core.errors import CgateError
from cgate.core.gates import Gate
from cgate.core.network import Block, Conv, Exit, Network, Pool, network_macs
from cgate.train.freeze import freeze
from cgate.train.frozen import frozen_network, frozen_weights
from cgate.train.gates import fixed
from cgate.train.models import GatedResNet

GATE = Gate("controller", 4)


def network() -> Network:
    """A gated identity block, a gated downsampling one, an exit, and an identity block."""
    identity = (Conv(4, 4), Conv(4, 4, relu=False))
    blocks = (
        Block("a", identity, "identity", GATE),
        Block("b", identity, "identity", GATE),
        Block("c", (Conv(4, 8, stride=2), Conv(8, 8, relu=False)), "pad", GATE),
        Block("d", (Conv(8, 8), Conv(8, 8, relu=False)), "identity", GATE),
    )
    return Network("tiny", (8, 8, 3), 128, 64, 5, Conv(3, 4), blocks, (Exit("b", 0.5),))


@pytest.mark.parametrize("opened", ["", "a", "abcd", "bd", "cd", "d"])
def test_a_frozen_network_answers_as_the_gated_one_does(opened: str) -> None:
    torch.manual_seed(0)
    decisions = {block: block in opened for block in "abcd"}
    gated = GatedResNet(network()).eval()
    if not opened.strip("cd"):
        with pytest.raises(CgateError, match="cannot be frozen"):
            frozen_network(network(), decisions)
        plain = replace(network(), exits=())
        gated = GatedResNet(plain).eval()
    static = GatedResNet(frozen_network(gated.network, decisions)).eval()
    static.load_state_dict(frozen_weights(gated.network, static.network, gated.state_dict()))
    pixels = torch.randint(0, 256, (16, 8, 8, 3), dtype=torch.uint8)
    with torch.inference_mode():
        wanted, got = gated(pixels, fixed(decisions)), static(pixels)
    assert torch.equal(wanted.logits, got.logits)
    for before, after in zip(wanted.exits.values(), got.exits.values(), strict=True):
        assert torch.equal(before, after)
    macs = network_macs(gated.network)
    bodies = sum(macs.bodies[block] for block in opened)
    assert sum(network_macs(static.network).gates.values()) == 0
    executed = network_macs(static.network)
    shut = {block.name for block in static.network.gated}
    assert sum(cost for name, cost in executed.bodies.items() if name not in shut) == bodies


def test_a_shut_block_that_ends_at_six_stays() -> None:
    """Its ReLU6 cuts what comes in above 6, also when its body does not run."""
    blocks = tuple(replace(block, relu6=block.name == "b") for block in network().blocks)
    gated = GatedResNet(replace(network(), blocks=blocks)).eval()
    decisions = dict.fromkeys("abcd", False)
    static = GatedResNet(frozen_network(gated.network, decisions)).eval()
    assert [block.name for block in static.network.blocks] == ["b", "c"]
    static.load_state_dict(frozen_weights(gated.network, static.network, gated.state_dict()))
    for model in (gated, static):
        model.get_parameter("stem.bn.weight").data.fill_(100)
    pixels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(gated(pixels, fixed(decisions)).logits, static(pixels).logits)


def test_freezing_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    card = freeze(trained, tmp_path / "static")
    before = load_checkpoint(trained).card
    static = load_checkpoint(tmp_path / "static")
    assert not static.network.gated
    majority = before["controls"]["majority"]
    assert card["accuracy"]["test"] == majority["accuracy"]
    assert card["executed_macs"] == majority["executed_macs"] == card["dense_macs"]
    assert card["frozen_from"]["executed_macs"] == before["executed_macs"]
    with pytest.raises(CgateError, match="static already"):
        freeze(tmp_path / "static", tmp_path / "again")


def test_freezing_onto_itself_is_refused(trained: Path) -> None:
    with pytest.raises(CgateError, match="another"):
        freeze(trained, trained)
    assert load_checkpoint(trained).network.gated


def test_a_shut_block_that_still_does_something_stays() -> None:
    identity = (Conv(4, 4), Conv(4, 4, relu=False))
    blocks = (
        Block("a", identity, "identity", GATE, relu=False),
        Block("b", identity, "identity", GATE),
        Block("c", identity, "identity", GATE, pool=Pool("max", 2, 2)),
        Block("d", identity, "identity", GATE),
    )
    mixed = Network("mixed", (8, 8, 3), 128, 64, 5, Conv(3, 4), blocks)
    for opened in ("a", ""):
        decisions = {block: block in opened for block in "abcd"}
        frozen = frozen_network(mixed, decisions)
        assert [block.name for block in frozen.blocks] == ["a", "b", "c"]
        gated, static = GatedResNet(mixed).eval(), GatedResNet(frozen).eval()
        static.load_state_dict(frozen_weights(mixed, frozen, gated.state_dict()))
        pixels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
        with torch.inference_mode():
            wanted, got = gated(pixels, fixed(decisions)), static(pixels)
        assert torch.equal(wanted.logits, got.logits)

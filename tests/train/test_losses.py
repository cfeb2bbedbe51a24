import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.core.network import Gate, network_macs
from cgate.train.gates import all_open, relaxed
from cgate.train.losses import bandpass, consistency, cost_penalty, executed_share
from cgate.train.models import GatedResNet
from cgate.train.networks import Task, build_network

NETWORK = build_network("resnet14", Task((8, 8, 1), 10, 73, 90), width=0.25, gate=Gate())
MACS = network_macs(NETWORK)


def test_the_share_counts_what_always_runs_and_the_gates() -> None:
    names = [block.name for block in NETWORK.gated]
    opened = executed_share({name: torch.ones(3) for name in names}, MACS)
    assert opened.item() == pytest.approx((MACS.dense + sum(MACS.gates.values())) / MACS.dense)
    shut = executed_share({name: torch.zeros(3) for name in names}, MACS)
    saved = sum(MACS.bodies[name] for name in names) / MACS.dense
    assert opened.item() - shut.item() == pytest.approx(saved)


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=4, max_size=4))
def test_the_share_is_the_mean_over_images(decisions: list[list[bool]]) -> None:
    names = [block.name for block in NETWORK.gated]
    always = MACS.stem + MACS.head + sum(MACS.gates.values())
    always += sum(cost for name, cost in MACS.bodies.items() if name not in names)
    per_image = [
        always + sum(MACS.bodies[names[k]] for k in range(4) if decisions[k][i]) for i in range(5)
    ]
    gates = {
        name: torch.tensor(row, dtype=torch.float32)
        for name, row in zip(names, decisions, strict=True)
    }
    share = executed_share(gates, MACS)
    assert share.item() == pytest.approx(sum(per_image) / 5 / MACS.dense)


def test_the_penalty_pushes_every_gate_to_shut_above_tau_only() -> None:
    torch.manual_seed(0)
    model = GatedResNet(NETWORK)
    images = torch.randint(0, 256, (8, 8, 8, 1), dtype=torch.uint8)
    for tau, pushed in ((0.5, True), (1.1, False)):
        model.zero_grad()
        policy = relaxed(1.0, 1.0, torch.Generator().manual_seed(0))
        share = executed_share(model(images, policy).gates, MACS)
        cost_penalty(share, tau, 10.0, 1.0).backward()  # type: ignore[no-untyped-call]
        for block in NETWORK.gated:
            gradient = model.get_parameter(f"blocks.{block.name}.gate.fc2.bias").grad
            assert gradient is not None
            # Gradient descent lowers a bias whose gradient is positive.
            assert (gradient.item() > 0) is pushed and (gradient.item() == 0) is not pushed


def test_the_penalty_grows_over_the_warmup() -> None:
    share = torch.tensor(0.9)
    assert cost_penalty(share, 0.7, 10.0, 0.0).item() == 0
    assert cost_penalty(share, 0.7, 10.0, 0.5).item() == pytest.approx(10 * 0.5 * 0.04)
    assert cost_penalty(share, 0.7, 10.0, 3.0).item() == pytest.approx(10 * 0.04)


def test_consistency_is_one_minus_the_cosine_over_all_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.rand(6, 3, 4, 4, generator=generator), torch.rand(6, 3, 4, 4, generator=generator))
        for _ in range(2)
    ]
    expected = torch.stack(
        [torch.cosine_similarity(a.flatten(1), b.flatten(1)).mean() for a, b in pairs]
    )
    assert consistency(pairs, 6).item() == pytest.approx(1 - expected.mean().item(), abs=1e-6)
    same = [(a, a) for a, _ in pairs]
    assert consistency(same, 6).item() == pytest.approx(0, abs=1e-6)


def test_images_with_an_open_gate_add_nothing_to_the_consistency() -> None:
    # The pairs leave them out; with them the value and all gradients are the same.
    torch.manual_seed(0)
    model = GatedResNet(NETWORK)
    images = torch.randint(0, 256, (12, 8, 8, 1), dtype=torch.uint8)
    found: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []
    for whole in (False, True):
        model.zero_grad()
        policy = relaxed(1.0, 2.0, torch.Generator().manual_seed(3))
        pairs = model(images, policy, pairs=True).pairs
        assert any(0 < len(opened) < 12 for opened, _ in pairs)
        if whole:
            # The gates' values are drawn alike, and all images are kept.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("cgate.train.models.NEARLY_OPEN", 2.0)
                policy = relaxed(1.0, 2.0, torch.Generator().manual_seed(3))
                pairs = model(images, policy, pairs=True).pairs
            assert all(len(opened) == 12 for opened, _ in pairs)
        loss = consistency(pairs, 12)
        loss.backward()  # type: ignore[no-untyped-call]
        values = [loss.detach()] + [
            value.grad for value in model.parameters() if value.grad is not None
        ]
        (expected if whole else found).extend(values)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-4)


def test_consistency_of_an_empty_map_has_a_finite_gradient() -> None:
    opened = torch.zeros(2, 3, 4, 4, requires_grad=True)
    consistency([(opened, torch.zeros(2, 3, 4, 4))], 2).backward()  # type: ignore[no-untyped-call]
    assert opened.grad is not None and opened.grad.isfinite().all()


def test_open_gates_are_consistent() -> None:
    model = GatedResNet(NETWORK)
    images = torch.randint(0, 256, (8, 8, 8, 1), dtype=torch.uint8)
    output = model(images, all_open, pairs=True)
    assert consistency(output.pairs, 8).item() == pytest.approx(0, abs=1e-5)


def test_the_bandpass_is_free_between_floor_and_ceiling() -> None:
    for rate, pull in ((0.0, -1), (0.1, -1), (0.2, 0), (0.5, 0), (0.9, 0), (0.95, 1), (1.0, 1)):
        gate = torch.full((10,), rate, requires_grad=True)
        loss = bandpass([gate, torch.full((10,), 0.5)], 0.2, 0.9)
        over = max(0.2 - rate, 0.0) + max(rate - 0.9, 0.0)
        assert loss.item() == pytest.approx(over**2 / 2, abs=1e-7)
        loss.backward()  # type: ignore[no-untyped-call]
        assert gate.grad is not None
        # Gradient descent opens a gate whose gradient is negative.
        assert (torch.sign(gate.grad) == pull).all()

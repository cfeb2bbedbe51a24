"""Every kind of gate: what it may look at, what moves it, and that it trains."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from torch import Tensor

from cgate.core.checkpoint import weight_shapes
from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.gates import GATE_KINDS
from cgate.core.network import Block, Conv, Gate, Network, network_macs
from cgate.core.progress import Silent
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.train.evaluate import evaluate
from cgate.train.fidelity import cir_fidelity
from cgate.train.gates import (
    CUT,
    KINDS,
    GateOptions,
    Score,
    Seen,
    all_open,
    learned,
    relaxed,
)
from cgate.train.loop import train
from cgate.train.losses import cost_penalty, distillation, executed_share
from cgate.train.models import GatedResNet, ResidualBlock
from cgate.train.ranges import load_model
from cgate.train.recipes import Recipe

LEARNED = [kind for kind in KINDS if kind != "random"]


def network_of(kind: str) -> Network:
    gate = Gate(kind, 4, 0.6 if kind == "random" else None)
    blocks = (
        Block("a", (Conv(4, 4), Conv(4, 4, relu=False)), "identity", gate),
        Block("b", (Conv(4, 8, 3, 2), Conv(8, 8, relu=False)), "pad", gate),
        Block("c", (Conv(8, 16, 3, 2), Conv(16, 16, relu=False)), "projection", gate),
        Block("d", (Conv(16, 16), Conv(16, 16, relu=False)), "identity", gate),
    )
    return Network("four", (8, 8, 1), 73, 90, 10, Conv(1, 4), blocks)


def pixels(count: int, seed: int = 0) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (count, 8, 8, 1), np.uint8))


def settled(kind: str, options: GateOptions | None = None) -> GatedResNet:
    """A model whose layers are not small and whose batch norms have seen something."""
    torch.manual_seed(1)
    model = GatedResNet(network_of(kind), options)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".gate." in name and value.ndim > 1:
                value.normal_(std=0.5)
        for seed in range(3):
            model.train()(pixels(64, seed), all_open)
    return model.eval()


def test_the_table_of_kinds_is_complete() -> None:
    assert KINDS.keys() == GATE_KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_the_names_of_a_checkpoint(kind: str) -> None:
    model = GatedResNet(network_of(kind))
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == weight_shapes(model.network)


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("bias", [2.0, -2.0])
def test_an_untrained_gate_starts_as_told(kind: str, bias: float) -> None:
    torch.manual_seed(0)
    model = GatedResNet(network_of(kind), GateOptions(bias)).train()
    decisions = model(pixels(64)).gates
    # The exact logit depends on the maps: an angle differs from image to image from the start.
    for values in decisions.values():
        assert (values.mean() > 0.75) if bias > 0 else (values.mean() < 0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_deployed_gates_are_a_function_of_their_image_alone(kind: str) -> None:
    model = settled(kind)
    images = pixels(24)
    with torch.no_grad():
        together = model(images).scores
        backwards = model(images.flip(0)).scores
        alone = [model(image[None]).scores for image in images]
    for name, score in together.items():
        torch.testing.assert_close(score.logit, backwards[name].logit.flip(0))
        single = torch.cat([scores[name].logit for scores in alone])
        torch.testing.assert_close(score.logit, single, atol=1e-5, rtol=1e-5)
        assert kind == "static" or score.logit.std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_only_kinds_that_say_so_look_at_the_body(kind: str) -> None:
    model = settled(kind)
    block = model.blocks["a"]
    assert isinstance(block, ResidualBlock)
    x = torch.rand(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    residuals = (x.roll(1, 0), -x)
    keys = torch.arange(6)
    with torch.no_grad():
        one, other = (block.gate(Seen(x, x, f, block.replay, keys)) for f in residuals)
    same = torch.equal(one.logit, other.logit)
    assert same is not GATE_KINDS[kind].needs_body


@pytest.mark.parametrize("kind", LEARNED)
def test_the_penalty_shuts_every_gate_and_only_above_tau(kind: str) -> None:
    model = settled(kind).train()
    macs = network_macs(model.network)
    for tau, pushed in ((0.3, True), (1.9, False)):
        model.zero_grad()
        output = model(pixels(32), relaxed(1.0, 1.0, torch.Generator().manual_seed(0)))
        cost_penalty(executed_share(output.gates, macs), tau, 10.0, 1.0).backward()  # type: ignore[no-untyped-call]
        # What a gate does to later gates through the map is not part of the sign: cut it off.
        logits = {
            name: score.logit.detach().clone().requires_grad_()
            for name, score in output.scores.items()
        }
        policy = relaxed(1.0, 1.0, torch.Generator().manual_seed(0))
        direct = {name: policy(name, logit) for name, logit in logits.items()}
        cost_penalty(executed_share(direct, macs), tau, 10.0, 1.0).backward()  # type: ignore[no-untyped-call]
        for name, logit in logits.items():
            assert logit.grad is not None
            # Gradient descent lowers a logit whose gradient is positive.
            assert (logit.grad >= 0).all()
            assert (logit.grad.sum() > 0).item() is pushed
            moved = [
                value.grad.abs().sum().item()
                for key, value in model.named_parameters()
                if key.startswith(f"blocks.{name}.gate.") and value.grad is not None
            ]
            assert (sum(moved) > 0) is pushed


def test_random_gates_learn_nothing_and_open_at_their_rate() -> None:
    model = settled("random")
    assert not any(".gate." in name for name, _ in model.named_parameters())
    count = 20_000
    decisions = model(pixels(count), learned).gates
    for values in decisions.values():
        assert values.mean().item() == pytest.approx(0.6, abs=5 * 0.5 / math.sqrt(count))
    # Independent from block to block; noise of training does not turn them.
    both = (decisions["a"] * decisions["d"]).mean().item()
    assert both == pytest.approx(0.36, abs=0.02)
    drawn = model(pixels(500), relaxed(1.0, 1.0, torch.Generator().manual_seed(0))).gates["a"]
    torch.testing.assert_close(drawn, decisions["a"][:500], atol=1e-6, rtol=0)


def test_an_anchor_gate_is_open_where_the_open_anchor_is_nearest() -> None:
    model = settled("anchor")
    means: dict[str, NDArray[np.float64]] = {}

    def observe(name: str, values: Tensor, ran: Tensor | None) -> None:
        if name.endswith(".gate.mean"):
            means[name.split(".")[0]] = values.double().numpy()

    with torch.no_grad():
        gates = model(pixels(200), learned, observe).gates
    for name, values in gates.items():
        anchors = model.get_parameter(f"blocks.{name}.gate.anchors").detach().double().numpy()
        cosines = (means[name] @ anchors.T) / np.linalg.norm(anchors, axis=1)
        cosines /= np.linalg.norm(means[name], axis=1, keepdims=True)
        clear = np.abs(cosines[:, 0] - cosines[:, 1]) > 1e-5
        nearest = cosines[:, 0] > cosines[:, 1]
        np.testing.assert_array_equal(values.numpy()[clear] == 1, nearest[clear])


def test_cir_opens_for_a_larger_angle() -> None:
    """Gamma is positive whatever is learned, so that the sign of the idea cannot turn."""
    model = settled("cir")
    block = model.blocks["a"]
    assert isinstance(block, ResidualBlock)
    x = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for log_gamma in (-3.0, 0.0, 2.0):
        torch.nn.init.constant_(model.get_parameter("blocks.a.gate.log_gamma"), log_gamma)
        with torch.no_grad():
            logits = [
                block.gate(Seen(x, x, f, block.replay, torch.zeros(1, dtype=torch.int64))).logit
                for f in (x, x.roll(1, 2), -x)
            ]
        assert logits[0] < logits[1] < logits[2]
        assert (logits[2] - logits[0]).item() == pytest.approx(2 * math.exp(log_gamma), rel=1e-4)


@pytest.mark.parametrize("through", [False, True])
def test_the_trunk_feels_the_distillation_only_when_asked(through: bool) -> None:
    model = settled("cir-predicted", GateOptions(cir_gradient=through)).train()
    error = distillation(model(pixels(32), all_open).scores.values())
    assert error is not None
    error.backward()  # type: ignore[no-untyped-call]
    moved = {
        name
        for name, value in model.named_parameters()
        if value.grad is not None and value.grad.any()
    }
    predictors = {name for name in moved if ".gate.predict" in name}
    assert {name.split(".")[1] for name in predictors} == {"a", "b", "c", "d"}
    assert (moved == predictors) is not through


def test_the_distillation_is_the_unexplained_share_of_the_variance() -> None:
    cir = torch.linspace(0.9, 1.1, 50)
    logit = torch.zeros(50)
    for scale in (1.0, 0.1):
        for predicted, share in ((cir, 0.0), (cir.mean().expand(50), 1.0), (2 - cir, 4.0)):
            score = Score(logit, predicted=scale * predicted, cir=scale * cir)
            assert distillation([score]).item() == pytest.approx(share, rel=0.05, abs=1e-6)  # type: ignore[union-attr]
    constant = Score(logit, predicted=cir, cir=torch.ones(50))
    assert math.isfinite(distillation([constant]).item())  # type: ignore[union-attr]
    assert distillation([Score(logit)]) is None


def test_the_predictor_learns_the_true_cir() -> None:
    model = settled("cir-predicted")
    predictor = [value for name, value in model.named_parameters() if ".gate.predict" in name]
    optimizer = torch.optim.Adam(predictor, 0.01)
    errors = []
    for _ in range(60):
        error = distillation(model(pixels(200), all_open).scores.values())
        assert error is not None
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.6 * errors[0]


def test_fidelity_is_correlation_and_agreement_on_all_images(trained: Path, tiny: Recipe) -> None:
    split = load_dataset("digits").test
    network = replace(tiny, gate=Gate("cir-predicted", 4)).network(load_dataset("digits"))
    torch.manual_seed(0)
    model = GatedResNet(network, GateOptions(bias=-0.2)).train()
    with torch.no_grad():
        model(torch.from_numpy(split.images), all_open)
        for name, value in model.named_parameters():
            if ".gate." in name and value.ndim > 1:
                value.normal_(std=0.5)
    found = cir_fidelity(model, split)
    assert model.training
    with torch.no_grad():
        scores: dict[str, Score] = model.eval()(torch.from_numpy(split.images)).scores
    for block, score in scores.items():
        assert score.predicted is not None and score.cir is not None and score.teacher is not None
        predicted, cir = score.predicted.double().numpy(), score.cir.double().numpy()
        assert found[block]["correlation"] == pytest.approx(
            np.corrcoef(predicted, cir)[0, 1], abs=1e-4
        )
        same = ((score.logit > CUT) == (score.teacher > CUT)).double().mean().item()
        assert found[block]["agreement"] == pytest.approx(same, abs=0.01)
    assert cir_fidelity(load_model(trained)[0], split) == {}


def test_cir_gates_save_nothing_but_are_penalised_as_in_the_paper() -> None:
    model = settled("cir", GateOptions(bias=-5.0))
    split = load_dataset("digits").test
    macs = network_macs(model.network)
    result = evaluate(model, split)
    always = macs.dense + sum(macs.gates.values()) + sum(macs.shortcuts.values())
    assert result.executed_macs >= macs.dense
    assert result.executed_macs == pytest.approx(always, rel=0.02)


def test_what_gates_cost() -> None:
    expected = {
        # On 8x8x4 and a body of two 3x3 convolutions of 4 channels; 4 hidden units.
        "controller": 256 + 16 + 4,
        "cir": 256 + 16 + 4 + 3 * 256,
        "cir-predicted": 2 * 256 + 8 * 8 + 8,
        "probe": 256 + 2 * (2 * 2 * 4 * 4 * 9) + 3 * 16,
        "static": 0,
        "random": 0,
        "anchor": 256 + 4,
    }
    assert expected.keys() == KINDS.keys()
    for kind, cost in expected.items():
        assert network_macs(network_of(kind)).gates["a"] == cost, kind
    assert network_macs(network_of("probe")).bodies["a"] == 16 * 2 * (2 * 2 * 4 * 4 * 9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_its_training_gates_become_the_deployed_ones(
    kind: str, tiny: Recipe, tmp_path: Path
) -> None:
    recipe = replace(tiny.with_gate(kind), tau=0.8, batch=25, gate_lr=0.02, consistency=0.1)
    card = train(recipe, tmp_path / "run", progress=Silent())
    facts = card["gate"]
    assert facts["kind"] == kind and facts["saves"] is not (kind == "cir")
    assert (card["cir"] != {}) is (kind == "cir-predicted")

    model, _ = load_model(tmp_path / "run")
    images = torch.from_numpy(load_dataset("digits").train.images)
    deployed = model(images).gates
    with torch.no_grad():
        for _ in range(40):  # so that running statistics are those of these weights
            model.train()(images)
        deployed = model.eval()(images).gates
        annealed = model.train()(images, relaxed(0.5, 0.0, torch.Generator())).gates
    for block, values in deployed.items():
        assert annealed[block].mean().item() == pytest.approx(values.mean().item(), abs=0.02)

    if facts["exportable"]:
        export_checkpoint(tmp_path / "run", tmp_path / "bundle", find_target("cortex-m4"))
    else:
        with pytest.raises(CgateError, match="cannot be exported"):
            export_checkpoint(tmp_path / "run", tmp_path / "bundle", find_target("cortex-m4"))

"""Early exits in training: the loss, the choice of the margin, and what the card tells."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from numpy.typing import NDArray
from torch import Tensor

from cgate.core.checkpoint import load_checkpoint
from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.files import read_json, write_json
from cgate.core.network import Exit, Gate, Network, network_macs
from cgate.core.plan import load_bundle
from cgate.core.progress import Silent
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.train.evaluate import (
    Answers,
    collect,
    evaluate,
    exit_controls,
    image_macs,
    score,
    set_margins,
)
from cgate.train.exits import exit_loss, places
from cgate.train.gates import all_open
from cgate.train.loop import train
from cgate.train.losses import TEMPERATURE, executed_share
from cgate.train.margins import choose_margins
from cgate.train.models import GatedResNet
from cgate.train.networks import Task, build_network
from cgate.train.ranges import load_model
from cgate.train.recipes import Exits, Recipe, find_recipe

SETTINGS = Exits(("s1b1", "s2b1"), (0.3, 0.7), distill=0.25, loss=0.0)


def network(*margins: float | None) -> Network:
    """A gated ResNet-14 with exits behind s1b1 and s2b1."""
    plain = build_network("resnet14", Task((8, 8, 1), 5, 100, 60), width=0.25, gate=Gate(hidden=3))
    exits = tuple(Exit(block, m) for block, m in zip(("s1b1", "s2b1"), margins, strict=True))
    return replace(plain, exits=exits)


def pixels(count: int, seed: int = 0) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (count, 8, 8, 1), np.uint8))


def drawn(count: int, seed: int = 0) -> Answers:
    """Answers of no network: later places are right more often, sure ones too."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, count)
    logits = random.normal(0, 1, (3, count, 5))
    logits[:, np.arange(count), labels] += np.array([[0.8], [1.5], [3.0]])
    gates = {
        block.name: torch.from_numpy((random.random(count) < 0.6).astype(np.float64))
        for block in network(None, None).gated
    }
    return Answers(torch.from_numpy(logits.astype(np.float32)), gates, torch.from_numpy(labels))


def softmax(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    powers = np.exp(logits / temperature)
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


@pytest.mark.parametrize("distill", [0.0, 0.25, 1.0])
def test_the_loss_is_its_formula(distill: float) -> None:
    answers = drawn(40)
    early, late, head = (values.double().numpy() for values in answers.logits)
    labels = answers.labels.numpy()
    expected = 0.0
    for weight, logits in ((0.3, early), (0.7, late)):
        hard = -np.log(softmax(logits, 1)[np.arange(40), labels]).mean()
        teacher, student = softmax(head, TEMPERATURE), softmax(logits, TEMPERATURE)
        soft = (teacher * np.log(teacher / student)).sum(axis=1).mean()
        expected += weight * ((1 - distill) * hard + distill * TEMPERATURE**2 * soft)
    exits = {"s1b1": answers.logits[0], "s2b1": answers.logits[1]}
    settings = replace(SETTINGS, distill=distill)
    loss = exit_loss(exits, answers.logits[2], answers.labels, settings)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("detach", [False, True])
def test_exits_train_the_trunk_unless_detached_and_never_the_head(detach: bool) -> None:
    torch.manual_seed(0)
    model = GatedResNet(network(None, None), detach_exits=detach)
    output = model.train()(pixels(16), all_open)
    labels = torch.arange(16) % 5
    loss = exit_loss(output.exits, output.logits, labels, SETTINGS)
    loss.backward()  # type: ignore[no-untyped-call]
    moved = {name for name, value in model.named_parameters() if value.grad is not None}
    own = {f"exits.{block}.{kind}" for block in ("s1b1", "s2b1") for kind in ("weight", "bias")}
    assert own <= moved
    assert ("stem.conv.weight" in moved) == ("blocks.s2b1.conv1.weight" in moved) == (not detach)
    assert not any(name.startswith(("head.", "blocks.s3")) for name in moved)


def test_exits_change_nothing_for_the_head() -> None:
    torch.manual_seed(0)
    model = GatedResNet(network(1.0, 1.0)).eval()
    bare = GatedResNet(replace(network(None, None), exits=())).eval()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("exits.")}
    bare.load_state_dict(state)
    images = pixels(12)
    with torch.inference_mode():
        assert torch.equal(model(images).logits, bare(images).logits)
        assert list(model(images).exits) == ["s1b1", "s2b1"]


def by_hand(net: Network, answers: Answers, image: int) -> tuple[int, int, float]:
    """(place, class, MACs) of one image, walking the network block by block."""
    macs = network_macs(net)
    total = float(macs.stem)
    for block in net.blocks:
        total += macs.gates.get(block.name, 0)
        if block.gate is None or answers.gates[block.name][image] == 1:
            total += macs.bodies[block.name]
        for number, each in enumerate(net.exits):
            if each.block == block.name:
                total += macs.exits[block.name]
                logits = answers.logits[number, image]
                largest = sorted(logits.tolist())
                if each.margin is not None and largest[-1] - largest[-2] > each.margin:
                    return number, int(logits.argmax()), total
    return len(net.exits), int(answers.logits[-1, image].argmax()), total + macs.head


@pytest.mark.parametrize(
    "margins", [(1.0, 1.5), (None, 1.0), (1.0, None), (None, None), (0.0, 0.0)]
)
def test_results_are_those_of_a_walk_through_the_network(
    margins: tuple[float | None, float | None],
) -> None:
    net, answers = network(*margins), drawn(300)
    walked = [by_hand(net, answers, i) for i in range(300)]
    place = places(net, answers.logits[:-1])
    assert place.tolist() == [each[0] for each in walked]
    assert image_macs(net, answers.gates, place).tolist() == [each[2] for each in walked]
    result = score(net, answers)
    right = [each[1] == label for each, label in zip(walked, answers.labels.tolist(), strict=True)]
    assert (result.correct, result.images) == (sum(right), 300)
    assert result.executed_macs == pytest.approx(np.mean([each[2] for each in walked]))
    for number, each in enumerate(result.exits):
        left = np.array([walk[0] == number for walk in walked])
        assert each.left == pytest.approx(left.mean())
        assert each.accuracy == pytest.approx(np.array(right)[left].mean() if left.any() else 0)
        alone = answers.logits[number].argmax(1) == answers.labels
        assert each.alone == pytest.approx(alone.double().mean().item())
        for label, share in enumerate(each.by_class):
            assert share == pytest.approx(left[answers.labels.numpy() == label].mean())
    # Gates behind an exit are judged on the images that reach them.
    reached = np.array([walk[0] > 1 for walk in walked])
    if reached.any():
        opened = answers.gates["s3b1"].numpy()[reached]
        assert result.open_rates["s3b1"] == pytest.approx(opened.mean())
    controls = exit_controls(net, answers, torch.Generator().manual_seed(0))
    head = (answers.logits[-1].argmax(1) == answers.labels).double().mean().item()
    assert controls["never_left"].accuracy == pytest.approx(head)
    for chosen, shuffled in zip(result.exits, controls["left_at_random"].exits, strict=True):
        assert chosen.left == pytest.approx(shuffled.left)


def chosen(answers: Answers, settings: Exits) -> Network:
    model = GatedResNet(network(None, None))
    set_margins(model, answers, settings)
    return model.network


@pytest.mark.parametrize("share", [0.45, 0.6, 0.75, 1.0])
def test_the_margin_for_a_budget_is_the_most_careful_within_it(share: float) -> None:
    answers = drawn(2000)
    net = chosen(answers, replace(SETTINGS, loss=None, share=share))
    margin = net.exits[0].margin
    budget = share * network_macs(net).dense
    assert net.exits[1].margin == margin
    assert score(net, answers).executed_macs <= budget
    never = score(network(None, None), answers).executed_macs
    assert (margin is None) == (never <= budget)
    if margin is not None:
        # A little further, and the budget would be exceeded.
        assert score(network(margin + 0.1, margin + 0.1), answers).executed_macs > budget


def test_a_budget_below_the_first_exit_leaves_there() -> None:
    net = chosen(drawn(200), replace(SETTINGS, loss=None, share=0.01))
    assert [each.margin for each in net.exits] == [0.0, 0.0]


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 1.0])
def test_the_margin_for_a_loss_saves_most_within_it(loss: float) -> None:
    answers = drawn(2000)
    net = chosen(answers, replace(SETTINGS, loss=loss))
    never = score(network(None, None), answers)
    result = score(net, answers)
    assert result.accuracy >= never.accuracy - loss
    if loss == 1.0:
        assert net.exits[0].margin == 0.0
    if loss == 0.05:
        tighter = chosen(answers, replace(SETTINGS, loss=0.01))
        assert result.executed_macs < score(tighter, answers).executed_macs < never.executed_macs


def test_exits_that_are_always_wrong_are_never_left() -> None:
    answers = drawn(500)
    answers.logits[:2] = -answers.logits[2]
    net = chosen(answers, replace(SETTINGS, loss=0.0))
    assert score(net, answers).accuracy >= score(network(None, None), answers).accuracy
    assert score(net, answers).exits[0].left < 0.01


def test_the_share_in_training_counts_exits() -> None:
    net = network(None, None)
    macs = network_macs(net)
    gates = {block.name: torch.ones(4) for block in net.gated}
    share = executed_share(gates, macs).item() * macs.dense
    assert share == pytest.approx(
        macs.dense + sum(macs.gates.values()) + sum(macs.exits.values()), rel=1e-6
    )


@pytest.mark.parametrize(
    "change",
    [
        {"weights": (1.0,)},
        {"after": (), "weights": ()},
        {"weights": (0.0, 1.0)},
        {"distill": 1.5},
        {"share": 0.5},
        {"loss": None},
        {"loss": 2.0},
        {"loss": float("nan")},
    ],
)
def test_bad_settings_are_named(change: dict[str, object]) -> None:
    with pytest.raises(CgateError, match=r"exits is Exits.*allowed is"):
        replace(find_recipe("exit"), exits=replace(SETTINGS, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("after", ["s9b0", "s3b1"])
def test_misplaced_exits_are_refused(after: str) -> None:
    exits = Exits((after,), (1.0,), loss=0.0)
    recipe = replace(find_recipe("exit-digits"), exits=exits)
    with pytest.raises(CgateError, match=f"recipe exit-digits: an exit.*{after}"):
        recipe.network(load_dataset("digits"))


class Stop(Silent):
    """Presses Ctrl-C after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1, note: str = "") -> None:
        if note:
            self.left -= steps
            if self.left == 0:
                raise KeyboardInterrupt


RECIPE = replace(find_recipe("exit-digits"), epochs=4)


@pytest.fixture(scope="module")
def checkpoint(make_once: Callable[..., Path]) -> Path:
    """The `exit-digits` recipe after a few epochs. Read only."""
    return make_once("exit-checkpoint", lambda out: train(RECIPE, out, progress=Silent()))


def test_the_card_tells_what_the_weights_do(checkpoint: Path) -> None:
    model, card = load_model(checkpoint)
    digits = load_dataset("digits")
    assert load_checkpoint(checkpoint).network == model.network
    margins = {each.margin for each in model.network.exits}
    assert len(margins) == 1
    test = evaluate(model, digits.test)
    assert card["accuracy"]["test"] == test.accuracy
    assert card["executed_macs"] == test.executed_macs
    assert [each["block"] for each in card["exits"]] == ["s1b1", "s2b1"]
    for each, result in zip(card["exits"], test.exits, strict=True):
        assert each["margin"] in margins
        assert (each["left"], each["alone"]) == (result.left, result.alone)
        assert each["by_class"] == result.by_class
    never = evaluate(model, digits.test, leave=False)
    assert card["controls"]["never_left"]["accuracy"] == never.accuracy
    # The margin was chosen on the validation images, on which its promise holds.
    validation = evaluate(model, digits.validation)
    promised = evaluate(model, digits.validation, leave=False).accuracy - 0.005
    assert validation.accuracy >= promised
    assert test.executed_macs < never.executed_macs
    # What it says is only worth something if it beats leaving at random.
    assert test.accuracy > card["controls"]["left_at_random"]["accuracy"]


def test_other_margins_change_who_leaves_and_nothing_else(
    checkpoint: Path, trained: Path, tmp_path: Path
) -> None:
    digits = load_dataset("digits")
    cheap = choose_margins(checkpoint, tmp_path / "cheap", share=0.5)
    careful = choose_margins(checkpoint, tmp_path / "careful", loss=0.0)
    assert cheap["recipe"]["exits"]["share"] == 0.5
    assert cheap["recipe"]["exits"]["loss"] is None
    model, card = load_model(tmp_path / "cheap")
    assert card == cheap
    assert evaluate(model, digits.validation).executed_macs <= 0.5 * card["dense_macs"]
    never = evaluate(model, digits.validation, leave=False).accuracy
    assert evaluate(load_model(tmp_path / "careful")[0], digits.validation).accuracy >= never
    assert cheap["executed_macs"] < careful["executed_macs"]
    for name in ("model.safetensors", "ranges.json"):
        assert (tmp_path / "cheap" / name).read_bytes() == (checkpoint / name).read_bytes()
    # What other commands wrote into the card stays there: export takes qat's ranges.
    tuned = tmp_path / "tuned"
    shutil.copytree(checkpoint, tuned)
    write_json(tuned / "card.json", {**read_json(tuned / "card.json", ""), "qat": {"ranges": "x"}})
    assert choose_margins(tuned, tmp_path / "kept", share=0.5) == {**cheap, "qat": {"ranges": "x"}}
    # The budget that it was trained with gives the same checkpoint again.
    same = choose_margins(checkpoint, tmp_path / "cheap", loss=0.005)
    assert same == json.loads((checkpoint / "card.json").read_text())
    with pytest.raises(CgateError, match="has no exits"):
        choose_margins(trained, tmp_path / "none", share=0.5)
    with pytest.raises(CgateError, match="allowed is either share or loss"):
        choose_margins(checkpoint, tmp_path / "both", share=0.5, loss=0.1)
    with pytest.raises(CgateError, match="holds another run"):
        choose_margins(checkpoint, checkpoint, share=0.5)


def test_a_stopped_run_goes_on_to_the_same_bits(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, out, progress=Stop(40))  # in the third epoch of 18 steps
    train(RECIPE, out, progress=Silent())
    for name in ("card.json", "model.safetensors", "ranges.json"):
        one, other = (json.loads((f / name).read_text()) if name.endswith("json")
                      else (f / name).read_bytes() for f in (out, checkpoint))  # fmt: skip
        assert one == other, name


def test_int8_leaves_where_float_leaves(checkpoint: Path, tmp_path: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "bundle", find_target("cortex-m4"))
    bundle = load_bundle(tmp_path / "bundle")
    digits = load_dataset("digits")
    model, _ = load_model(checkpoint)
    float_places = places(model.network, collect(model, digits.test).logits[:-1]).numpy()
    result = reference.run(bundle.plan, bundle.weights, reference.to_input(digits.test.images))
    last = len(bundle.plan.units) - 1 - result.ran[:, ::-1].argmax(axis=1)
    answers = [unit.index for unit in (*bundle.plan.exits, bundle.plan.units[-1])]
    int8_places = np.array([answers.index(unit) for unit in last])
    assert (int8_places == float_places).mean() > 0.9
    accuracy = (result.classes == digits.test.labels).mean()
    assert abs(accuracy - evaluate(model, digits.test).accuracy) < 0.03
    executed = bundle.plan.executed_macs(result.ran).mean()
    assert executed == pytest.approx(evaluate(model, digits.test).executed_macs, rel=0.05)


def test_a_detached_exit_leaves_the_trunk_as_it_was(tiny: Recipe, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    # Without gates: their penalty counts the MACs of exits.
    dense = tiny.dense()
    exits = Exits(("s1b0",), (1.0,), detach=True, share=0.9)
    for name, each in (("with", exits), ("without", None)):
        train(replace(dense, exits=each), tmp_path / name, epochs=1, progress=Silent())
    alone = load_file(tmp_path / "without" / "model.safetensors")
    beside = load_file(tmp_path / "with" / "model.safetensors")
    assert beside.keys() - alone.keys() == {"exits.s1b0.weight", "exits.s1b0.bias"}
    for key, value in alone.items():
        assert (beside[key] == value).all(), key

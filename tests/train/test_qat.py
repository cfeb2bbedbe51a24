"""Fine-tuning on integers: what the loss sees is what the exported plan computes, bit for bit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from safetensors.torch import save

from cgate.core.checkpoint import RANGES, WEIGHTS, load_checkpoint
from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.files import write_bytes
from cgate.core.network import Network
from cgate.core.plan import Conv2d, Threshold
from cgate.core.progress import Silent
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.lower import lower
from cgate.host_tools.cli import main
from cgate.train import integers
from cgate.train.models import Output
from cgate.train.qat import Tuning, qat
from cgate.train.ranges import calibrate, load_model
from synthetic import SHAPES, random_images, small_network, write_checkpoint

EVERY_NETWORK = {
    **SHAPES,
    **{kind: small_network(kind=kind) for kind in ("cir-predicted", "anchor", "static")},
    "exits": small_network(exits=("s1b0", "s2b1"), gate_downsampling=True),
}
CASES = st.tuples(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 2),
    st.integers(0, 1000),
    st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(CASES)
def test_torch_adds_up_exactly(case: tuple[int, int, int, int, int, int, bool]) -> None:
    images, channels, outputs, size, stride, seed, heavy = case
    if heavy:  # too large a sum for float32
        channels *= 64
    random = np.random.default_rng(seed)
    x = random.integers(-128, 128, (images, 7, 6, channels)).astype(np.int8)
    low = 120 if heavy else -127
    kernel = random.integers(low, 128, (outputs, size, size, channels)).astype(np.int8)
    padding = tuple(random.integers(0, size, 4).tolist())
    names = ("x", "y", "w", "s", "b", "m", "h")
    op = Conv2d(*names, stride, padding, (-128, 127), 0, "", "")
    zero_point = int(random.integers(-128, 128))
    wanted = reference.accumulate(x, op, kernel, zero_point)
    assert (integers.sums(x, op, kernel, zero_point) == wanted).all()


@pytest.mark.parametrize("name", EVERY_NETWORK)
def test_the_forward_pass_is_the_exported_plan(name: str, tmp_path: Path) -> None:
    network: Network = EVERY_NETWORK[name]
    checkpoint = write_checkpoint(tmp_path, network, seed=3)
    # No exit is left in training; all else is as exported.
    pixels = torch.from_numpy(random_images(network, 12, 8))
    model, _ = load_model(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def step() -> tuple[integers.Deployed, Output]:
        deployed = integers.run(*integers.deploy(checkpoint, model, "mse"), pixels)
        return deployed, integers.forward(model, deployed, pixels)

    _, output = step()
    output.logits.square().mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    seen: dict[str, torch.Tensor] = {}
    deployed, output = step()
    integers.forward(model, deployed, pixels, lambda n, values, ran: seen.update({n: values}))

    # The way of a user: through files, `cgate export`, and the definition of the arithmetic.
    arrays = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_bytes(tmp_path / WEIGHTS, save(arrays))
    exits = tuple(replace(each, margin=None) for each in network.exits)
    changed = replace(load_checkpoint(tmp_path), network=replace(network, exits=exits))
    plan, weights = lower(changed, find_target("cortex-m3"))
    result = reference.run(plan, weights, reference.to_input(pixels.numpy()))
    compared = 0
    for step_ in reference.trace(plan, weights, reference.to_input(pixels.numpy())):
        tensor = plan.tensor(step_.unit.output)
        gate = step_.unit.role == "gate"
        if tensor.name in seen and not gate:
            values = seen[tensor.name].detach()
            values = values.permute(0, 2, 3, 1) if values.ndim == 4 else values
            real = (step_.output.astype(np.float32) - tensor.zero_point) * np.float32(tensor.scale)
            found = values.numpy()[step_.images]
            assert (found.reshape(real.shape) == real).all(), tensor.name
            compared += real.size
    assert compared > 0
    tensor = plan.tensor(plan.output)
    codes = output.logits.detach().numpy() / np.float32(tensor.scale) + tensor.zero_point
    assert (np.rint(codes) == result.logits).all() and np.abs(codes - np.rint(codes)).max() < 1e-3
    for i, unit in enumerate(plan.gates):
        if unit.role == "gate":
            assert isinstance(unit.ops[-1], Threshold)
            decided = output.gates[unit.block or ""].detach().numpy() > 0.5
            assert (decided == result.decisions[:, i]).all()


def test_gradients_reach_every_array_and_stop_where_int8_saturates(tmp_path: Path) -> None:
    network = small_network()
    checkpoint = write_checkpoint(tmp_path, network, seed=3)
    model, _ = load_model(tmp_path)
    pixels = torch.from_numpy(random_images(network, 16, 8))
    deployed = integers.run(*integers.deploy(checkpoint, model, "mse"), pixels)
    output = integers.forward(model, deployed, pixels)
    total = output.logits.square().mean()
    for score in output.scores.values():
        total = total + score.logit.square().mean()
    total.backward()  # type: ignore[no-untyped-call]
    for name, value in model.named_parameters():
        assert value.grad is not None and float(value.grad.abs().sum()) > 0, name
    values = torch.tensor([-3.0, -1.0, 0.5, 2.0], requires_grad=True)
    exact = torch.tensor([-1.0, -1.0, 0.4, 1.0])
    out = integers.straight_through(values, exact, -1.0, 1.0)
    assert torch.equal(out, exact)
    (out * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None and values.grad.tolist() == [0.0, 2.0, 3.0, 0.0]


@pytest.fixture(scope="module")
def tuned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qat") / "tuned"
    qat(trained, out, Tuning(limit=200, ranges="percentile", lr=1e-3), progress=Silent())
    return out


def test_the_result_exports_with_the_same_ranges(trained: Path, tuned: Path) -> None:
    assert (tuned / RANGES).read_bytes() == (trained / RANGES).read_bytes()
    checkpoint = load_checkpoint(tuned)
    assert checkpoint.card["qat"]["ranges"] == "percentile"
    target = find_target("cortex-m3")
    plan, weights = lower(checkpoint, target)
    assert plan == lower(checkpoint, target, ranges="percentile")[0]
    assert plan != lower(checkpoint, target, ranges="mse")[0]
    # What the card says of int8 is what the exported plan does.
    split = load_dataset("digits").validation
    result = reference.run(plan, weights, reference.to_input(split.images))
    after = checkpoint.card["qat"]["validation"]["after"]
    assert after["accuracy"] == (result.classes == split.labels).mean()
    before = checkpoint.card["qat"]["validation"]["before"]
    assert after["loss"] <= before["loss"]


def test_it_trains(trained: Path, tuned: Path) -> None:
    before, after = (load_checkpoint(folder) for folder in (trained, tuned))
    report = after.card["qat"]["validation"]
    moved = any((before.weights[n] != after.weights[n]).any() for n in before.weights)
    assert moved == (report["after"]["loss"] < report["before"]["loss"])
    fixed = [name for name in before.weights if "running_" in name]
    assert all((before.weights[name] == after.weights[name]).all() for name in fixed)


def test_what_cannot_be_is_refused(trained: Path, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="fine-tuned at its present ranges"):
        calibrate(tuned)
    with pytest.raises(CgateError, match="holds another run"):
        qat(trained, trained, Tuning())
    with pytest.raises(CgateError, match="more than there are training images"):
        qat(trained, tmp_path / "out", Tuning(limit=10))
    old = shutil.copytree(trained, tmp_path / "old")
    ranges = json.loads((old / RANGES).read_text())
    del ranges["histograms"]
    (old / RANGES).write_text(json.dumps(ranges))
    with pytest.raises(CgateError, match="holds no histogram"):
        qat(old, tmp_path / "out", Tuning(limit=64))
    assert not (tmp_path / "out").exists()


def test_command(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tuned"
    words = ["qat", str(trained), "--out", str(out), "--limit", "64", "--epochs", "1", "--json"]
    assert main(words) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["card"]["qat"]["epochs"] == 1 and data["folder"] == str(out)
    assert load_checkpoint(out).network == load_checkpoint(trained).network

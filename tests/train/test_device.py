"""What a GPU needs, tested through code that does not care where it runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.core.network import Gate
from cgate.train.device import compiled_bodies, fast_dtype
from cgate.train.gates import all_open
from cgate.train.loop import settled
from cgate.train.models import GatedResNet
from cgate.train.networks import Task, build_network
from cgate.train.recipes import find_recipe
from cgate.train.resume import claim


def test_compiled_bodies_compute_the_same_and_are_compiled_once_per_shape() -> None:
    network = build_network("resnet20", Task((8, 8, 1), 10, 73, 90), width=0.25, gate=Gate())
    torch.manual_seed(0)
    model = GatedResNet(network).eval()
    images = torch.randint(0, 256, (4, 8, 8, 1), dtype=torch.uint8)
    expected = model(images, all_open).logits
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    with compiled_bodies(model, backend):
        torch.testing.assert_close(model(images, all_open).logits, expected)
        # Nine blocks: one shape in the first stage, two in each of the others.
        assert len(graphs) == 5
        again = model(images.flip(0), all_open).logits
        torch.testing.assert_close(again, expected.flip(0))
        assert len(graphs) == 5
    model(images, all_open)
    assert len(graphs) == 5
    assert not any("body" in vars(block) for block in model.blocks.values())


def test_compiled_bodies_train() -> None:
    network = build_network("resnet8", Task((8, 8, 1), 10, 73, 90), width=0.25, gate=Gate())
    torch.manual_seed(0)
    models = [GatedResNet(network) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    images = torch.randint(0, 256, (8, 8, 8, 1), dtype=torch.uint8)

    def gradients(model: GatedResNet) -> dict[str, torch.Tensor]:
        model(images, all_open).logits.square().mean().backward()
        return {
            name: value.grad for name, value in model.named_parameters() if value.grad is not None
        }

    expected = gradients(models[0])
    with compiled_bodies(models[1], "aot_eager"):
        found = gradients(models[1])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    # Batch norm's running statistics move inside of what is compiled.
    for name, buffer in models[0].named_buffers():
        torch.testing.assert_close(models[1].get_buffer(name), buffer, msg=name)


@pytest.mark.parametrize(("has", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_is_for_machines_that_have_it(
    has: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    assert fast_dtype(torch.device("cpu")) == expected
    monkeypatch.setattr("cgate.train.loop.pick_device", lambda: torch.device("cpu"))
    recipe = find_recipe("cgate")
    assert settled(recipe).dtype == settled(recipe, tmp_path).dtype == expected
    for asked in ("float32", "bfloat16"):
        chosen = replace(recipe, dtype=asked)
        assert settled(chosen) is chosen
        # A run that has begun goes on as it began, on whatever machine.
        claim(tmp_path, chosen.to_json())
        assert settled(recipe, tmp_path) == chosen


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"recipe": {"name": 1}}'])
def test_what_cannot_be_read_begins_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    recipe = find_recipe("cgate")
    assert settled(recipe, tmp_path) == settled(recipe)

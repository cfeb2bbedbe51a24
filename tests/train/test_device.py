"""What a GPU needs, tested through code that does not care where it runs."""

from typing import Any

import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.core.network import Gate
from cgate.train.device import compiled_bodies
from cgate.train.gates import all_open
from cgate.train.models import GatedResNet
from cgate.train.networks import Task, build_network


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

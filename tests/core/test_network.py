"""Network descriptions: JSON round trip, cost in MACs, and refusal of what cannot be built."""

import copy
from typing import Any

import pytest

from cgate.core.errors import CgateError
from cgate.core.network import Block, Conv, Gate, Network, network_from_json, network_macs
from synthetic import small_network


def resnet20() -> Network:
    """He et al. 2016, CIFAR-10, option A."""
    blocks = []
    channels = 16
    for stage, width in enumerate((16, 32, 64), 1):
        for i in range(3):
            stride = 2 if stage > 1 and i == 0 else 1
            body = (Conv(channels, width, 3, stride), Conv(width, width, relu=False))
            shortcut = "identity" if channels == width else "pad"
            blocks.append(Block(f"s{stage}b{i}", body, shortcut, None))
            channels = width
    return Network("resnet20", (32, 32, 3), 121, 64, 10, Conv(3, 16), tuple(blocks))


def test_json_round_trip() -> None:
    network = small_network(gate_downsampling=True)
    value = network.to_json()
    assert network_from_json(_as_json(value)) == network


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value


def test_resnet20_has_its_known_cost() -> None:
    macs = network_macs(resnet20())
    # 40.55 M multiply-accumulates (option A), of which the convolutions and the linear layer are
    # 40,551,040 with the mean's 4,096 additions counted as in SPEC section 1.
    assert macs.dense == 40_551_040 + 64 * 64
    assert macs.bodies["s1b0"] == 2 * 2_359_296
    assert macs.gates == {}


def test_gate_cost_counts_its_mean() -> None:
    macs = network_macs(small_network())
    assert macs.gates["s1b0"] == 8 * 8 * 8 + 8 * 4 + 4


def edited(**changes: Any) -> Any:
    value = copy.deepcopy(_as_json(small_network().to_json()))
    for path, new in changes.items():
        *parents, last = path.split("__")
        place = value
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        place[int(last) if last.isdigit() else last] = new
    return value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [8, 8]}, "input_shape"),
        ({"input_shape": [8, 8, 0]}, "input_shape"),
        ({"name": "x */ int y; /*"}, "is not made of letters"),
        ({"classes": 1}, "'classes' is 1"),
        ({"classes": "10"}, "'classes' should be int"),
        ({"classes": True}, "'classes' should be int"),
        ({"stem__kernel": 2}, "even"),
        ({"stem__relu": False}, "stem must end in a ReLU"),
        ({"blocks__0__name": "../x"}, "no identifier"),
        ({"blocks__0__name": "s2b0"}, "same name"),
        ({"blocks__0__gate__kind": "se"}, r"kind 'se' is not one of controller, cir"),
        ({"blocks__0__gate__rate": 0.5}, r"'rate' is 0.5, which does not go with kind"),
        ({"blocks__0__gate__kind": "random"}, r"'rate' is None, which does not go with kind"),
        (
            {"blocks__0__gate__kind": "random", "blocks__0__gate__rate": 1.5},
            r"'rate' is 1.5, allowed is 0 to 1",
        ),
        ({"blocks__0__shortcut": "dense"}, r"'dense' is not one of identity, pad, projection"),
        ({"blocks__0__shortcut": "none"}, "cannot be skipped"),
        ({"blocks__0__relu": 1}, "'relu' should be bool"),
        ({"blocks__0__body__0__groups": 3}, r"3 groups do not divide 8 input"),
        ({"blocks__0__body__0__groups": 0}, "'groups' is 0"),
        ({"blocks__1__shortcut": "identity"}, "cannot change the shape"),
        ({"blocks__1__body__1__in_channels": 9}, "takes 9 channels but is given 16"),
        ({"blocks__0__body": []}, "must end in a convolution without ReLU"),
        ({"blocks": 3}, "'blocks' should be list"),
    ],
)
def test_bad_descriptions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CgateError, match=message):
        network_from_json(edited(**changes))


def test_missing_fields_are_named() -> None:
    value = edited()
    del value["blocks"][0]["body"][1]["stride"]
    with pytest.raises(CgateError, match=r"blocks\[0\] \(s1b0\).body\[1\]: 'stride' is missing"):
        network_from_json(value)


def test_gate_default_is_the_documented_one() -> None:
    assert Gate() == Gate("controller", 16)

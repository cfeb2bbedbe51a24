"""The chooser's optimisation against brute force."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgate.export.knapsack import Option, smallest, solve

PARTS = {"a": 7, "b": 3, "c": 12, "d": 0}

options = st.builds(
    Option, st.integers(0, 30), st.integers(0, 30), st.frozensets(st.sampled_from(sorted(PARTS)))
)
problems = st.lists(st.lists(options, min_size=1, max_size=4), max_size=5)


def totals(groups: Sequence[Sequence[Option]], picks: Sequence[int]) -> tuple[int, int]:
    chosen = [group[i] for group, i in zip(groups, picks, strict=True)]
    used = frozenset[str]().union(*(option.parts for option in chosen))
    size = sum(option.size for option in chosen) + sum(PARTS[name] for name in used)
    return sum(option.cost for option in chosen), size


@settings(max_examples=400, deadline=None)
@given(problems, st.integers(0, 120))
def test_nothing_is_better(groups: list[list[Option]], capacity: int) -> None:
    everything = [
        totals(groups, picks) for picks in itertools.product(*(range(len(g)) for g in groups))
    ]
    fitting = [total for total in everything if total[1] <= capacity]
    found = solve(groups, PARTS, capacity)
    assert (found is None) == (not fitting)
    if found is not None:
        assert totals(groups, found) == min(fitting)
    assert smallest(groups, PARTS) == min(size for _, size in everything)


def resnet(depth: int, seed: int) -> tuple[list[list[Option]], int]:
    """Groups like those of a ResNet on CIFAR with six kernels and a rate of its own per block."""
    rng = random.Random(seed)
    groups = []
    for channels in (16, 32, 64):
        size = 9 * channels * channels
        for _ in range((depth - 2) // 6):
            rate = rng.randrange(1, 1_000_000)
            for _ in range(2):
                groups.append(
                    [
                        Option(rate * int(cost * (1 + rng.random() / 100)), size * factor,
                               frozenset([f"k{factor}"]))
                        for cost, factor in ((12_000_000, 1), (1_800_000, 2), (1_200_000, 4),
                                             (1_000_000, 5), (700_000, 8), (600_000, 9))
                    ]
                )  # fmt: skip
                groups.append([Option(rate * 50_000, 0, frozenset(["add"])),
                               Option(rate * 5_000, 0, frozenset(["qadd"]))])  # fmt: skip
    return groups, sum(min(option.size for option in group) for group in groups)


@pytest.mark.parametrize("depth", [20, 56])
def test_large_networks_are_solved_and_more_room_never_costs(depth: int) -> None:
    groups, least = resnet(depth, depth)
    parts = {"k1": 500, "k2": 2000, "k4": 3000, "k5": 3100, "k8": 4200, "k9": 4100,
             "add": 60, "qadd": 90}  # fmt: skip
    before = None
    for factor in (1.1, 1.7, 3, 5, 20):
        found = solve(groups, parts, int(least * factor))
        assert found is not None
        cost = sum(group[i].cost for group, i in zip(groups, found, strict=True))
        assert before is None or cost <= before
        before = cost

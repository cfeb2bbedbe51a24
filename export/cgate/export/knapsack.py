"""One option per group at the least cost, within a size: exactly, in integers.

A multiple-choice knapsack with set-up sizes: an option may need parts (the code of a kernel) that
take up room once, however many options need them. Solved by dynamic programming over the groups.
A state is a size, a cost and a set of parts. It is dropped if another with the same parts is not
worse, or if not even a relaxation in which size beyond the limit may be bought (Lagrange; any
price gives a bound) could bring it below the best solution known. Nothing else is dropped, so what
is left at the end is optimal; tests/export/test_knapsack.py compares it with brute force.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One way to do a group.

    Args:
        cost: what is to be small; 0 or more.
        size: what it takes up for itself; 0 or more.
        parts: what it needs besides, shared with all other options.
    """

    cost: int
    size: int
    parts: frozenset[str] = frozenset()


class _Problem:
    """The groups with parts as bits, the groups in which most is at stake first."""

    def __init__(self, groups: Sequence[Sequence[Option]], parts: Mapping[str, int]) -> None:
        names = sorted({name for group in groups for option in group for name in option.parts})
        bits = {name: 1 << i for i, name in enumerate(names)}
        self.part_sizes = [parts[name] for name in names]
        spread = [max(o.size for o in group) - min(o.size for o in group) for group in groups]
        self.order = sorted(range(len(groups)), key=lambda i: (-spread[i], i))
        # Per group: (cost, size, mask, index of the option), without what is no better anywhere.
        self.groups: list[list[tuple[int, int, int, int]]] = []
        for place in self.order:
            kept: list[tuple[int, int, int, int]] = []
            items = sorted(
                (o.cost, o.size, sum(bits[name] for name in o.parts), i)
                for i, o in enumerate(groups[place])
            )
            for cost, size, mask, i in items:
                if not any(s <= size and m & ~mask == 0 for _, s, m, _ in kept):
                    kept.append((cost, size, mask, i))
            self.groups.append(kept)
        self.sizes = {0: 0}

    def shared(self, mask: int) -> int:
        """Size of the parts in `mask`."""
        if mask not in self.sizes:
            self.sizes[mask] = sum(size for i, size in enumerate(self.part_sizes) if mask >> i & 1)
        return self.sizes[mask]

    def total(self, picks: Sequence[tuple[int, int, int, int]]) -> tuple[int, int]:
        """Cost and size of one option per group."""
        mask = 0
        for pick in picks:
            mask |= pick[2]
        return sum(pick[0] for pick in picks), sum(pick[1] for pick in picks) + self.shared(mask)

    def at_price(self, price: int) -> list[tuple[int, int, int, int]]:
        """The best options where a byte costs `price`."""
        return [
            min(group, key=lambda o: (o[0] + price * o[1], o[1], o[3])) for group in self.groups
        ]

    def tails(self, price: int) -> list[int]:
        """At this price, the least that the groups from each place on can come to."""
        sums = [0]
        for group in reversed(self.groups):
            sums.append(sums[-1] + min(option[0] + price * option[1] for option in group))
        return sums[::-1]


def smallest(groups: Sequence[Sequence[Option]], parts: Mapping[str, int]) -> int:
    """The least total size that one option per group can have, parts included."""
    problem = _Problem(groups, parts)
    least = [min(option[1] for option in group) for group in problem.groups]
    bound = problem.total([min(group, key=lambda option: option[1]) for group in problem.groups])[1]
    rest = sum(least)
    states = {0: 0}
    for group, low in zip(problem.groups, least, strict=True):
        rest -= low
        found: dict[int, int] = {}
        for mask, size in states.items():
            for option in group:
                both, now = mask | option[2], size + option[1]
                if now + problem.shared(both) + rest <= bound:
                    found[both] = min(now, found.get(both, now))
        states = found
    return min(size + problem.shared(mask) for mask, size in states.items())


def _first_solution(problem: _Problem, capacity: int) -> tuple[int | None, list[int]]:
    """Cost of a good solution (None if none was found), and the prices next to the limit."""
    high = 1
    while problem.total(problem.at_price(high))[1] > capacity:
        if high > 1 << 80:  # beyond any cost: these are the smallest options
            return None, [0]
        high *= 2
    low = -1  # not a price: below 0
    while high - low > 1:
        middle = (low + high) // 2
        if problem.total(problem.at_price(middle))[1] <= capacity:
            high = middle
        else:
            low = middle
    picks = problem.at_price(high)
    for i, group in enumerate(problem.groups):
        for option in group:  # from the cheapest on
            changed = [*picks[:i], option, *picks[i + 1 :]]
            if option[0] < picks[i][0] and problem.total(changed)[1] <= capacity:
                picks = changed
                break
    return problem.total(picks)[0], [price for price in (low, high) if price >= 0]


def solve(
    groups: Sequence[Sequence[Option]], parts: Mapping[str, int], capacity: int
) -> list[int] | None:
    """The option of each group with which the sum of costs is least; of equals, the smallest.

    Args:
        groups: at least one option in each.
        parts: the size of every part that an option names.
        capacity: what the sizes of options and used parts may sum to.

    Returns:
        An index per group, or None if nothing fits.
    """
    if not groups:
        return [] if capacity >= 0 else None
    problem = _Problem(groups, parts)
    known, prices = _first_solution(problem, capacity)
    tails = [problem.tails(price) for price in prices]
    least = [0]
    for group in reversed(problem.groups):
        least.append(least[-1] + min(option[1] for option in group))
    least.reverse()
    # By mask, the states in order of size: (size, cost, picks as a linked list).
    states: dict[int, list[tuple[int, int, object]]] = {0: [(0, 0, None)]}
    for place, group in enumerate(problem.groups, 1):
        found: dict[int, list[tuple[int, int, object]]] = {}
        for mask, items in states.items():
            for cost_more, size_more, needs, index in group:
                both = mask | needs
                room = capacity - problem.shared(both)
                most = room - least[place]
                kept = found.setdefault(both, [])
                for size, cost, picks in items:
                    now, spent = size + size_more, cost + cost_more
                    if now > most:
                        break
                    if known is None or all(
                        spent + tail[place] - price * (room - now) <= known
                        for price, tail in zip(prices, tails, strict=True)
                    ):
                        kept.append((now, spent, (index, picks)))
        states = {mask: _not_worse(items) for mask, items in found.items() if items}
    ends = [
        (cost, size + problem.shared(mask), mask, picks)
        for mask, items in states.items()
        for size, cost, picks in items
    ]
    if not ends:
        return None
    picks = min(ends, key=lambda end: end[:3])[3]
    chosen = [0] * len(groups)
    for place in reversed(problem.order):
        assert isinstance(picks, tuple)
        chosen[place], picks = picks
    return chosen


def _not_worse(items: list[tuple[int, int, object]]) -> list[tuple[int, int, object]]:
    """In order of size, the items that cost less than every smaller one."""
    kept: list[tuple[int, int, object]] = []
    for item in sorted(items, key=lambda each: each[:2]):
        if not kept or item[1] < kept[-1][1]:
            kept.append(item)
    return kept

"""The memory plan: live buffers never overlap, and little is wasted."""

from hypothesis import given
from hypothesis import strategies as st

from cgate.export.memory import ALIGNMENT, Buffer, place


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    made = []
    for i in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 10))
        last = draw(st.integers(first, 10))
        made.append(Buffer(f"b{i}", draw(st.integers(1, 100)), first, last))
    return made


@given(buffers())
def test_live_buffers_do_not_overlap(items: list[Buffer]) -> None:
    layout = place(items)
    offsets, size = layout.offsets, layout.size
    for i, a in enumerate(items):
        assert offsets[a.name] % ALIGNMENT == 0
        assert offsets[a.name] + a.size <= size
        for b in items[:i]:
            if a.first <= b.last and b.first <= a.last:
                start_a, start_b = offsets[a.name], offsets[b.name]
                assert start_a + a.size <= start_b or start_b + b.size <= start_a


@given(buffers())
def test_the_arena_is_at_least_the_peak_and_at_most_the_sum(items: list[Buffer]) -> None:
    size = place(items).size
    peak = max(
        (sum(b.size for b in items if b.first <= step <= b.last) for step in range(11)), default=0
    )
    assert peak <= size <= sum(b.size + ALIGNMENT for b in items)


def test_memory_is_used_again() -> None:
    items = [Buffer("a", 64, 0, 1), Buffer("b", 64, 1, 2), Buffer("c", 64, 2, 3)]
    assert place(items).size == 128


@given(buffers(), st.integers(0, 10), st.integers(1, 150))
def test_scratch_memory_takes_the_lowest_free_place(
    items: list[Buffer], step: int, size: int
) -> None:
    layout = place(items)
    taken = {
        byte
        for b in items
        if b.first <= step <= b.last
        for byte in range(layout.offsets[b.name], layout.offsets[b.name] + b.size)
    }
    found = layout.free(step, size)
    fits = [at for at in range(0, found + 1, ALIGNMENT) if taken.isdisjoint(range(at, at + size))]
    assert fits == [found]

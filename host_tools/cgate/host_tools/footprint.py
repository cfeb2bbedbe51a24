"""What an exported network takes of its target, before anything is compiled: for people."""

from __future__ import annotations

from cgate.core.plan import Choice, Decision, Unit
from cgate.core.targets import size_text
from cgate.export.bundle import Summary, arena_end
from cgate.export.choose import MILLION
from cgate.host_tools.console import facts, table

HEAD = ("unit", "runs", "kMAC", "of dense", "flash", "arena", "kernels")
RIGHT = " rrrrr"


def lines(summary: Summary) -> list[str]:
    """A row per unit; then MACs, cost, flash and RAM, and how much of the target they take."""
    plan, target, choice = summary.plan, summary.target, summary.choice
    units = zip(plan.units, choice.rates, summary.unit_flash, strict=True)
    rows = [
        (
            unit.name,
            _percent(rate, MILLION),
            f"{unit.macs / 1000:,.1f}",
            _percent(unit.macs, plan.dense_macs),
            size_text(flash) if flash else "",
            size_text(arena_end(plan, unit)),
            _kernels(unit),
        )
        for unit, rate, flash in units
    ]
    weights = sum(summary.unit_flash)
    totals = [
        ("MACs", _macs(summary)),
        ("cost", _cost(choice)),
        (
            "flash",
            f"about {_share(choice.flash, choice.flash_limit)}: "
            f"weights {size_text(weights)}, the rest code",
        ),
        (
            "RAM",
            f"about {_share(choice.ram, choice.ram_limit)}: "
            f"arena {size_text(plan.arena_size)}, the rest input, output, stack",
        ),
        ("bundle", str(summary.out)),
    ]
    title = f"{plan.network.name} for {target.name} ({target.core})"
    return [title, "", *table(HEAD, rows, RIGHT), "", *facts(totals)]


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %"


def _share(size: int, limit: int) -> str:
    return f"{size_text(size)} of {size_text(limit)} ({_percent(size, limit)})"


def _kernels(unit: Unit) -> str:
    """The variants of the unit's kernels, each once: "dsp_winograd, dsp"."""
    found = [op.kernel.partition("__")[2] for op in unit.ops if not isinstance(op, Decision)]
    return ", ".join(dict.fromkeys(found))


def _macs(summary: Summary) -> str:
    plan = summary.plan
    text = f"{plan.dense_macs:,} dense"
    if not plan.gates:
        return text
    deciders = "gates and exits" if plan.exits else "gates"
    added = sum(unit.macs for unit in plan.gates)
    rates = summary.choice.rates
    expected = sum(rate * unit.macs for unit, rate in zip(plan.units, rates, strict=True))
    return (
        f"{text}; {deciders} add {added:,} ({100 * added / plan.dense_macs:.2f} %); expected "
        f"{expected // MILLION:,} ({_percent(expected, plan.dense_macs * MILLION)})"
    )


def _cost(choice: Choice) -> str:
    """What an inference costs, as the kernels' cost table says."""
    unit = {"cycles_flash": "cycles with this flash"}.get(choice.unit, choice.unit)
    always = choice.expected == choice.worst
    often = "" if always else f" if all units run, {choice.expected:,} expected"
    beyond = f", {100 * choice.extrapolated / choice.worst:.0f} % of it extrapolated"
    unknown = f", without {choice.unmeasured} ops whose cost was never measured"
    return (
        f"about {choice.worst:,} {unit}{often}"
        f"{beyond if choice.extrapolated else ''}{unknown if choice.unmeasured else ''}"
    )

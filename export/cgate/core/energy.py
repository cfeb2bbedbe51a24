"""What a target file says about a board's energy, and the model that is built on it.

Energy per inference is cycles times a constant: over four generations of one vendor's engine on
one board, the published energy per cycle stayed within 8 % of its mean (`runs` of a target file).
The constants come from published runs of neural networks, never from a datasheet's current per
MHz, which is far below what such runs draw. All of it is modelled, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Energy:
    """The `[energy]` table of a target file.

    Args:
        supply_v: supply voltage at which the figures hold.
        regulator: "ldo", whose current does not depend on the voltage, or "smps".
        pj_per_cycle: active energy while a network runs, in picojoules.
        pj_low, pj_high: the least and the greatest of the published runs.
        runs: which ones.
        sleep_uw: power between inferences, with RAM kept, in microwatts.
        sleep_mode: its name, and where the figure is from.
    """

    supply_v: float
    regulator: str
    pj_per_cycle: float
    pj_low: float
    pj_high: float
    runs: str
    sleep_uw: float
    sleep_mode: str

    def per_inference(self, cycles: float) -> Estimate:
        """Energy of so many cycles, in microjoules."""
        return Estimate(*(cycles * pj * 1e-6 for pj in self._constants))

    def average_power(self, cycles: float, clock_hz: float, per_second: float) -> Estimate:
        """Power of a board that runs `per_second` inferences and sleeps between, in microwatts.

        Raises:
            ValueError: there is no time for so many.
        """
        busy = per_second * cycles / clock_hz
        if not 0 <= busy <= 1:
            raise ValueError(
                f"{per_second:g} inferences of {cycles / clock_hz * 1e3:.3g} ms each do not fit "
                "into a second"
            )
        active = self.per_inference(cycles)
        idle = (1 - busy) * self.sleep_uw
        return Estimate(*(per_second * uj + idle for uj in (active.value, active.low, active.high)))

    @property
    def _constants(self) -> tuple[float, float, float]:
        return self.pj_per_cycle, self.pj_low, self.pj_high


@dataclass(frozen=True)
class Estimate:
    """A modelled figure, and the span that the calibration leaves."""

    value: float
    low: float
    high: float


def battery_days(capacity_mah: float, volts: float, power_uw: float) -> float:
    """Days that a battery of this capacity and mean voltage gives this power.

    Without self-discharge and converter losses: an upper bound.
    """
    return capacity_mah * volts * 1e3 / power_uw / 24


def read_energy(table: object) -> Energy | None:
    """The `[energy]` table as an Energy; None if there is none.

    Raises:
        ValueError: a key is missing, unknown or of the wrong type, or a figure makes no sense.
    """
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ValueError("'energy' must be a table")
    names = {field.name: field.type for field in fields(Energy)}
    odd = sorted(table.keys() ^ names.keys())
    if odd:
        raise ValueError(f"energy: {odd[0]!r} is {'unknown' if odd[0] in table else 'missing'}")
    for name, kind in names.items():
        good = str if kind == "str" else (int, float)
        if not isinstance(table[name], good) or isinstance(table[name], bool):
            raise ValueError(f"energy: {name!r} is {table[name]!r}, should be {kind}")
    energy = Energy(**table)
    if energy.regulator not in ("ldo", "smps"):
        raise ValueError(f"energy: regulator {energy.regulator!r} is neither 'ldo' nor 'smps'")
    if not 0 < energy.pj_low <= energy.pj_per_cycle <= energy.pj_high or energy.sleep_uw < 0:
        raise ValueError("energy: not 0 < pj_low <= pj_per_cycle <= pj_high, or sleep_uw below 0")
    return energy

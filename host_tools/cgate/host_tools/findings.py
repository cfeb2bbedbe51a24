"""What other commands have left in a bundle, checked before anything is made of it."""

from __future__ import annotations

from typing import Any

from cgate.core.errors import CgateError
from cgate.core.files import read_json
from cgate.core.plan import Bundle
from cgate.host_tools.measure import MEASUREMENT
from cgate.host_tools.verify import FIDELITY, VERIFICATION

_NUMBER = (int, float)

# Like the value: a dictionary names the keys that must be there; a list has one entry that all are
# like, or as many as there must be; a type, or a tuple of types, is what isinstance takes.
_SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    VERIFICATION: (
        "cgate verify",
        {
            "equal": bool,
            "images": int,
            "patterns": [str],
            "comparisons": [
                {"route": str, "values": int, "decisions": int, "differing": int, "tool": str}
            ],
        },
    ),
    FIDELITY: (
        "cgate fidelity CHECKPOINT",
        {
            "images": int,
            "split": str,
            "accuracy": {"float": _NUMBER, "int8": _NUMBER},
            "changed": _NUMBER,
            "units": [{"name": str, "images": int, "sqnr_db": (*_NUMBER, type(None))}],
            "gates": [{"name": str, "reached": int, "changed": int}],
        },
    ),
    MEASUREMENT: (
        "cgate measure",
        {"target": str, "board": {"name": str}, "duty": (dict, type(None))},
    ),
}
_DUTY = {
    "per_second": _NUMBER,
    "busy": _NUMBER,
    "power_uw": [_NUMBER] * 3,
    "battery": (dict, type(None)),
}
_BATTERY = {"mah": _NUMBER, "volts": _NUMBER, "days": [_NUMBER] * 3}


def _misfit(value: Any, like: Any, where: str) -> str:
    """Where `value` is not like `like`; empty if it is."""
    if isinstance(like, dict):
        if not isinstance(value, dict):
            return where
        return next(
            filter(None, (_misfit(value.get(k), v, f"{where}.{k}") for k, v in like.items())), ""
        )
    if isinstance(like, list):
        if not isinstance(value, list) or len(like) not in (1, len(value)):
            return where
        return next(filter(None, (_misfit(each, like[0], where) for each in value)), "")
    return "" if isinstance(value, like) else where


def read_finding(bundle: Bundle, name: str) -> dict[str, Any] | None:
    """The content of verify.json, fidelity.json or measure.json.

    Returns:
        None if it is not there, or was found on another plan.

    Raises:
        CgateError: the file is damaged.
    """
    path = bundle.folder / name
    if not path.exists():
        return None
    command, shape = _SHAPES[name]
    again = f"{command} {bundle.folder}"
    try:
        value = read_json(path, f"what `{command}` found")
    except CgateError as error:
        raise CgateError(error.message, again) from error
    if not isinstance(value, dict) or value.get("plan_sha256") != bundle.sha256:
        return None
    misfit = _misfit(value, shape, name)
    if name == MEASUREMENT and not misfit and value["duty"] is not None:
        misfit = _misfit(value["duty"], _DUTY, f"{name}.duty")
        if not misfit and value["duty"]["battery"] is not None:
            misfit = _misfit(value["duty"]["battery"], _BATTERY, f"{name}.duty.battery")
    if misfit:
        raise CgateError(f"{path} is damaged: {misfit} is missing or of the wrong type", again)
    return value

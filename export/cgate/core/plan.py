"""The plan: every integer of an exported network, and how units are run or skipped.

`plan.json` + `weights.npz` (SPEC.md, section 6). Export writes it; reference, emitters and host
tools read it and add nothing of their own.
"""

from __future__ import annotations

import io
import types
import typing
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgate.core.errors import CgateError, hinted
from cgate.core.files import json_text, read_json, sha256
from cgate.core.imported import imported_from_json, is_imported
from cgate.core.network import network_from_json
from cgate.core.npz import read_npz
from cgate.core.plan_check import check_plan, check_weights
from cgate.core.plan_types import (
    OPS,
    ROLES,
    Add,
    Addition,
    AvgPool2d,
    Choice,
    Conv2d,
    Convolution,
    Counted,
    Decision,
    DepthwiseConv2d,
    FullyConnected,
    KernelOp,
    Margin,
    MaxPool2d,
    Mean,
    MeanMax,
    Op,
    Plan,
    Pool,
    ResidualAdd,
    Scratched,
    ShortcutPad,
    Softmax,
    Tensor,
    Threshold,
    Unit,
    Weights,
)

__all__ = [
    "OPS",
    "PLAN",
    "ROLES",
    "ROUNDING",
    "SCHEMA",
    "WEIGHTS",
    "Add",
    "Addition",
    "AvgPool2d",
    "Bundle",
    "Choice",
    "Conv2d",
    "Convolution",
    "Counted",
    "Decision",
    "DepthwiseConv2d",
    "FullyConnected",
    "KernelOp",
    "Margin",
    "MaxPool2d",
    "Mean",
    "MeanMax",
    "Op",
    "Plan",
    "Pool",
    "ResidualAdd",
    "Scratched",
    "ShortcutPad",
    "Softmax",
    "Tensor",
    "Threshold",
    "Unit",
    "Weights",
    "load_bundle",
    "plan_files",
    "plan_from_json",
    "plan_sha256",
]

SCHEMA = 1
ROUNDING = "tflite-double"
MAX_NUMBER = 1e300
PLAN = "plan.json"
WEIGHTS = "weights.npz"


def plan_files(plan: Plan, weights: Weights) -> dict[str, bytes]:
    """`plan.json` and `weights.npz` as bytes, the same on every machine and run."""
    value = {"schema": SCHEMA, **asdict(plan)}
    value["network"] = plan.network.to_json()
    value["units"] = [
        {**asdict(unit), "ops": [{"kind": op.op, **asdict(op)} for op in unit.ops]}
        for unit in plan.units
    ]
    archive = io.BytesIO()
    # Written by hand rather than by np.savez: fixed member dates and order, on every platform.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        for name in sorted(weights):
            data = io.BytesIO()
            np.save(data, np.ascontiguousarray(weights[name]), allow_pickle=False)
            members.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())
    return {PLAN: json_text(value).encode("utf-8"), WEIGHTS: archive.getvalue()}


def plan_sha256(files: Mapping[str, bytes]) -> str:
    """The plan's identity: SHA-256 over plan.json followed by weights.npz."""
    return sha256(files[PLAN] + files[WEIGHTS])


def _convert(value: Any, kind: Any, where: str) -> Any:
    """`value` of parsed JSON as the annotated type `kind`, or a CgateError that names `where`."""
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        return _convert(value, next(item for item in options if item is not type(None)), where)
    if origin is tuple:
        items = typing.get_args(kind)
        if not isinstance(value, list):
            raise CgateError(f"{where} should be a list")
        if len(items) == 2 and items[1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise CgateError(f"{where} should have {len(items)} items, has {len(value)}")
        return tuple(
            _convert(item, each, f"{where}[{i}]")
            for i, (item, each) in enumerate(zip(value, items, strict=True))
        )
    if is_dataclass(kind):
        return _record(value, typing.cast(type, kind), where)
    if kind is float and type(value) in (int, float):
        # Beyond is no float, or infinite; NaN compares as false.
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise CgateError(f"{where} is no finite number")
        return float(value)
    if type(value) is not kind:
        raise CgateError(f"{where} should be {kind.__name__}, is {type(value).__name__}")
    return value


def _record(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, dict):
        raise CgateError(f"{where} should be an object")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    missing = [name for name in names if name not in value]
    unknown = sorted(value.keys() - set(names))
    if missing or unknown:
        raise CgateError(
            f"{where}: " + (f"{missing[0]!r} is missing" if missing else f"unknown {unknown[0]!r}")
        )
    return kind(**{name: _convert(value[name], hints[name], f"{where}.{name}") for name in names})


def _unit(value: Any, where: str) -> Unit:
    if not isinstance(value, dict) or not isinstance(value.get("ops"), list):
        raise CgateError(f"{where}.ops should be a list")
    ops: list[Op] = []
    for i, item in enumerate(value["ops"]):
        kind = item.get("kind") if isinstance(item, dict) else None
        if not isinstance(kind, str) or kind not in OPS:
            raise CgateError(f"{where}.ops[{i}]: kind {kind!r} is none of {', '.join(OPS)}")
        fields_ = {key: each for key, each in item.items() if key != "kind"}
        ops.append(_record(fields_, OPS[kind], f"{where}.ops[{i}]"))
    rest = {key: each for key, each in value.items() if key != "ops"}
    unit = typing.cast(Unit, _record({**rest, "ops": []}, Unit, where))
    return Unit(**{**{f.name: getattr(unit, f.name) for f in fields(Unit)}, "ops": tuple(ops)})


def plan_from_json(value: Any, where: str = "plan") -> Plan:
    """Check and read parsed plan.json.

    Raises:
        CgateError: a field is missing, unknown, of the wrong type, or refers to nothing.
    """
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CgateError(f"{where}: schema is not {SCHEMA}", "export the checkpoint again")
    for key in ("network", "units"):
        if key not in value:
            raise CgateError(f"{where}: {key!r} is missing")
    read = imported_from_json if is_imported(value["network"]) else network_from_json
    network = read(value["network"], f"{where}.network")
    if not isinstance(value["units"], list):
        raise CgateError(f"{where}.units should be a list")
    units = tuple(_unit(item, f"{where}.units[{i}]") for i, item in enumerate(value["units"]))
    hints = typing.get_type_hints(Plan)
    simple: dict[str, Any] = {}
    for field in fields(Plan):
        if field.name in ("network", "units"):
            continue
        if field.name not in value:
            raise CgateError(f"{where}: {field.name!r} is missing")
        simple[field.name] = _convert(value[field.name], hints[field.name], f"{where}.{field.name}")
    plan = Plan(**simple, network=network, units=units)
    if plan.rounding != ROUNDING:
        raise CgateError(f"{where}: rounding {plan.rounding!r} is not {ROUNDING!r}")
    check_plan(plan, where)
    return plan


@dataclass(frozen=True)
class Bundle:
    """A plan with its weights, as read from a bundle folder."""

    folder: Path
    plan: Plan
    weights: Weights
    sha256: str


def no_plan(folder: Path) -> str:
    """What to do about a folder that lacks plan.json."""
    what = folder if (folder / "card.json").is_file() else "CHECKPOINT"
    return f"cgate export {what} --target cortex-m4 --out BUNDLE"


def load_bundle(folder: Path) -> Bundle:
    """Read and check plan.json and weights.npz of a bundle.

    Raises:
        CgateError: a file is missing, corrupt, or the two do not belong together.
    """
    with hinted("export the checkpoint again"):
        return _load_bundle(folder)


def _load_bundle(folder: Path) -> Bundle:
    if not folder.is_dir():
        raise CgateError(
            f"there is no bundle folder {folder}",
            "a bundle is the folder that `cgate export CHECKPOINT --out FOLDER` writes",
        )
    path = folder / PLAN
    plan = plan_from_json(read_json(path, "the bundle's plan", no_plan(folder)), str(path))
    archive = folder / WEIGHTS
    try:
        files = {PLAN: path.read_bytes(), WEIGHTS: archive.read_bytes()}
        weights = read_npz(files[WEIGHTS])
    except (OSError, ValueError) as e:
        raise CgateError(
            f"the bundle's weights cannot be read: {archive}: {e}", "export the checkpoint again"
        ) from e
    for unit in plan.units:
        for op in unit.ops:
            if isinstance(op, Conv2d | DepthwiseConv2d | Softmax):
                check_weights(plan, op, weights, str(archive))
    return Bundle(folder, plan, weights, plan_sha256(files))

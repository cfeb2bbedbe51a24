"""A checkpoint in torch and as ONNX under onnxruntime, on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from cgate.core.checkpoint import load_checkpoint
from cgate.core.plan import Unit
from cgate.core.targets import find_target
from cgate.export.emit_onnx import NETWORK_FILE, emit_onnx, onnx_file
from cgate.export.lower import lower
from cgate.train.gates import CUT, all_open, learned
from cgate.train.ranges import load_model

NEAR = 1e-4
"""A logit or margin as close to its threshold may be decided either way."""

Float = NDArray[np.float32]
Bools = NDArray[np.bool_]


def session(content: bytes, profile: Path | None = None) -> Any:
    """An onnxruntime session; with `profile` it counts nodes, which then are not fused."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def relative(found: Float, expected: Float) -> float:
    """Largest difference, relative to the largest expected value where that is above 1."""
    return float(abs(found - expected).max() / max(1.0, float(abs(expected).max())))


class FloatNetwork:
    """What torch makes of n images, and the ONNX files of the same checkpoint.

    Attributes:
        values: every tensor with all gates open, by plan name: (n, C, H, W), or (n, C).
        learned: the same with gates as learned, exits not taken.
        opened: decisions as learned, (n, gates); false where they were not reached.
        ran: which units run, (n, units).
        clear: images none of whose decisions was NEAR its threshold, (n,).
    """

    def __init__(self, folder: Path, pixels: NDArray[np.uint8]) -> None:
        self.checkpoint = load_checkpoint(folder)
        self.plan = lower(self.checkpoint, find_target("cortex-m4"), ranges="minmax")[0]
        self.files = emit_onnx(self.plan, self.checkpoint)
        self.blocks = {block.name: block for block in self.checkpoint.network.blocks}
        self.values: dict[str, Float] = {}
        self.learned: dict[str, Float] = {}
        model, _ = load_model(folder)
        model.eval()
        # Static gates are constants of the plan, which has no unit for a body never run.
        forced = all_open if self.plan.gates else learned
        for policy, values in ((forced, self.values), (learned, self.learned)):

            def observe(name: str, value: Any, ran: Any, values: Any = values) -> None:
                values[name] = value.numpy()

            with torch.inference_mode():
                output = model(torch.from_numpy(pixels), policy, observe)
            for block, score in output.scores.items():
                values[f"{block}.gate.logit"] = score.logit.detach().numpy()[:, None]
        for unit in self.plan.units:
            if unit.role == "pool" or unit.output.endswith(".skip"):
                self.values[unit.output] = self._unnamed(unit)
        self._walk(len(pixels))

    def _unnamed(self, unit: Unit) -> Float:
        """What a unit leaves that has no name in torch: pooling, or a block without its body."""
        x = torch.from_numpy(self.values[unit.inputs[0]])
        block = self.blocks[unit.block] if unit.block else None
        if unit.role == "pool":
            pool = block.pool if block else self.checkpoint.network.stem_pool
            assert pool is not None
            kind = torch.max_pool2d if pool.kind == "max" else torch.nn.functional.avg_pool2d
            y = kind(x, pool.size, pool.stride, pool.padding)
        else:
            assert block is not None
            y = torch.relu(x) if block.relu else x
        result: Float = y.numpy()
        return result

    def decisions(self, unit: Unit, values: dict[str, Float]) -> tuple[Bools, Float]:
        """Open or not, by the definition, and how far from the threshold: (n,)."""
        answer = values[unit.output]
        if unit.role == "gate":
            return answer[:, 0] > CUT, abs(answer[:, 0] - CUT)
        ordered = np.sort(answer, axis=1)
        margins = ordered[:, -1] - ordered[:, -2]
        exits = {each.block: each.margin for each in self.checkpoint.network.exits}
        margin = exits[unit.block or ""]
        cut = np.inf if margin is None else margin
        return margins <= cut, abs(margins - cut)

    def _walk(self, images: int) -> None:
        self.opened = np.zeros((images, len(self.plan.gates)), bool)
        self.clear = np.ones(images, bool)
        reached = np.ones(images, bool)
        for place, unit in enumerate(self.plan.gates):
            decisions, distance = self.decisions(unit, self.learned)
            self.opened[:, place] = decisions & reached
            self.clear &= (distance > NEAR) | ~reached
            if unit.role == "exit":
                reached &= decisions
        self.ran = self.plan.ran(self.opened)

    def compare_unit(self, unit: Unit) -> tuple[float, int]:
        """A unit's file on torch's inputs: `relative` difference, clear decisions that differ."""
        inputs = {name: self.values[name] for name in unit.inputs}
        found, *opened = session(self.files[onnx_file(unit)]).run(None, inputs)
        worst = relative(found, self.values[unit.output].reshape(found.shape))
        if unit not in self.plan.gates:
            assert not opened
            return worst, 0
        decisions, distance = self.decisions(unit, self.values)
        return worst, int(((opened[0][:, 0] != decisions) & (distance > NEAR)).sum())

    def compare_network(self) -> tuple[float, int]:
        """The whole network's file on the clear images: the same two figures."""
        run = session(self.files[NETWORK_FILE]).run
        found = [run(None, {"input": image[None]}) for image in self.learned["input"]]
        logits = np.concatenate([each[0] for each in found])
        opened = np.array([[bool(value) for value in each[1:]] for each in found]).reshape(
            self.opened.shape
        )
        expected = self.learned[self.plan.output].copy()
        for unit in reversed(self.plan.exits):
            left = self.ran[:, unit.index] & ~self.opened[:, self.plan.gates.index(unit)]
            expected[left] = self.learned[unit.output][left]
        differing = int((opened != self.opened)[self.clear].sum())
        return relative(logits[self.clear], expected[self.clear]), differing

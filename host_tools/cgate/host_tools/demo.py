"""`cgate demo`: training to report in one go, on a data set small enough for a coffee break."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import write_json
from cgate.core.plan import load_bundle
from cgate.core.progress import Progress
from cgate.core.targets import Target
from cgate.host_tools.toolchain import TOOLS, find


@dataclass(frozen=True)
class Scale:
    """How much of everything a demo does.

    Args:
        recipe: of training.
        images: test images under QEMU; None is all of them.
    """

    recipe: str
    images: int | None


# A CIFAR image takes more than a hundred million instructions: QEMU gets some of the images.
SCALES: Mapping[str, Scale] = {
    "digits": Scale("demo", None),
    "cifar10": Scale("demo-cifar10", 500),
}
VERIFIED_IMAGES = 200
STAGES = ("train", "export", "build", "run", "verify", "report")


class _Stages:
    """Numbered stages with their durations, as lasting lines of a progress display."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._since = time.monotonic()

    def done(self, stage: str, text: str) -> None:
        """`stage` is over; `text` is its result in a few words."""
        now = time.monotonic()
        number = f"[{STAGES.index(stage) + 1}/{len(STAGES)}]"
        self._progress.message(f"{number} {stage:<7} {now - self._since:6.1f} s  {text}")
        self._since = now


def demo(
    data: str,
    out: Path,
    target: Target,
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    epochs: int | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Train, export, build, run, verify and report into `out`.

    A checkpoint that is complete is taken as it is, so a second demo starts at export.

    Args:
        data: a key of SCALES.
        out: folder; gets checkpoint/ and bundle/.
        limit: test images under QEMU; None takes the scale's.
        epochs: of training, instead of the recipe's.

    Returns:
        The content of report.json, `controls` of the checkpoint's card, and `html`: path of the
        page.

    Raises:
        CgateError: what the steps raise; the parts are not bit-identical (1).
    """
    # torch and the TFLite runtime take seconds to import: not before somebody runs a demo.
    from cgate.export.bundle import export_checkpoint
    from cgate.export.golden import require_golden
    from cgate.host_tools.build import build
    from cgate.host_tools.inputs import load_inputs
    from cgate.host_tools.measure import MEASUREMENT, measurement
    from cgate.host_tools.measured_runs import run_all
    from cgate.host_tools.report import HTML, write_report
    from cgate.host_tools.verify import VERIFICATION, verify
    from cgate.train.loop import train
    from cgate.train.recipes import find_recipe

    # What is missing is said before minutes of training, not after.
    for tool in TOOLS:
        find(tool)
    require_golden()
    scale = SCALES[data]
    stages = _Stages(progress)
    checkpoint, folder = out / "checkpoint", out / "bundle"
    card = train(
        find_recipe(scale.recipe), checkpoint, data_dir=data_dir, epochs=epochs, progress=progress
    )
    stages.done(
        "train",
        f"{card['network']['name']}, {card['accuracy']['test']:.2%} of the test images, "
        f"{card['executed_macs'] / card['dense_macs']:.1%} of the MACs",
    )
    summary = export_checkpoint(checkpoint, folder, target, progress=progress)
    stages.done("export", f"plan {summary.plan_sha256[:12]} for {target.name}")
    built = build(folder, target, on="qemu", progress=progress)
    stages.done("build", f"{built.flash:,} B flash, {built.ram:,} B RAM")

    plan = load_bundle(folder).plan
    chosen = limit or scale.images
    inputs = load_inputs(plan, data, data_dir=data_dir, limit=chosen)
    runs = run_all(folder, inputs, progress=progress)
    found = measurement(folder, plan, runs.learned, runs.opened, runs.shut, runs.majority)
    write_json(folder / MEASUREMENT, found)
    runs.forget()
    stages.done("run", f"{len(inputs.indices):,} of {inputs.available:,} test images under QEMU")
    checked = verify(folder, inputs.images[:VERIFIED_IMAGES], data=data, progress=progress)
    write_json(folder / VERIFICATION, checked.to_json())
    if not checked.equal:
        raise CgateError("\n".join(checked.lines()), f"cgate verify {folder}", EXIT_CHECK_FAILED)
    stages.done("verify", f"{checked.images} images: reference, TFLite, host C and QEMU are equal")
    value = write_report(folder, run=runs.name, data_dir=data_dir)
    page = folder / HTML
    stages.done("report", str(page))
    return {**value, "controls": card["controls"], "html": str(page)}

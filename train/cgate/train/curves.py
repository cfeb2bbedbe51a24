"""log.csv as a picture: loss, accuracy, executed share, open rates."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from cgate.core.files import write_bytes
from cgate.train.resume import Row

SIZE_INCHES = (10.0, 6.5)


def write_curves(path: Path, log: Sequence[Row], tau: float | None) -> bool:
    """Draw a run's log as a PNG.

    Args:
        log: a row per epoch, at least one.
        tau: target of the executed share, None for none.

    Returns:
        Whether it was drawn: False where matplotlib is not installed.

    Raises:
        CgateError: the file cannot be written.
    """
    # Without pyplot there is no window, no global state, and no choice of a backend.
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(SIZE_INCHES, layout="constrained")
    epochs = [row["epoch"] for row in log]
    marker = "." if len(log) < 30 else ""
    # The columns of a panel: title -> {column: label}.
    blocks = {key: key.removeprefix("open_") for key in log[0] if key.startswith("open_")}
    exits = {key: key.replace("_", " ", 1) for key in log[0] if key.startswith("left_")}
    panels: dict[str, dict[str, str]] = {
        "training loss": {"train_loss": ""},
        "validation accuracy": {"validation_accuracy": ""},
        "executed share of the dense MACs": {
            "executed_share": "validation",
            "train_share": "training",
        },
        "open rates, validation": blocks | exits,
    }
    for place, (title, columns) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(2, 2, place)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        for column, label in columns.items():
            axes.plot(
                epochs, [row[column] for row in log], marker=marker, label=label, linewidth=1.2
            )
        if title.startswith("executed") and tau is not None:
            axes.axhline(tau, color="gray", linestyle="--", linewidth=1, label="tau")
        if title.startswith("open"):
            axes.set_ylim(-0.03, 1.03)
        if any(columns.values()):
            axes.legend(fontsize=7, ncols=2 if len(columns) > 6 else 1)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if place > 2:
            axes.set_xlabel("epoch", fontsize=9)
    buffer = io.BytesIO()
    # No Software entry: the same log gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    return True

"""What is said of an epoch: its row in log.csv, its line, and gates that stopped deciding."""

from __future__ import annotations

from cgate.core.network import Network
from cgate.train.evaluate import Evaluation
from cgate.train.resume import Row


def epoch_row(epoch: int, trained: Row, result: Evaluation, dense_macs: int) -> Row:
    """The row of log.csv after an epoch.

    Args:
        trained: from `Run.train_epoch`.
        result: on the validation images.
    """
    row: Row = {
        "epoch": epoch + 1,
        "lr": round(trained["lr"], 6),
        "train_loss": round(trained["loss"], 6),
        "train_share": round(trained["share"], 6),
        "validation_accuracy": round(result.accuracy, 6),
        "executed_share": round(result.executed_macs / dense_macs, 6),
    }
    row |= {f"open_{block}": round(rate, 6) for block, rate in result.open_rates.items()}
    return row | {f"left_{each.block}": round(each.left, 6) for each in result.exits}


def epoch_line(row: Row, epochs: int) -> str:
    """A row for people."""
    gates = [value for key, value in row.items() if key.startswith("open_")]
    exits = [value for key, value in row.items() if key.startswith("left_")]
    text = (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.3f}  "
        f"validation {row['validation_accuracy']:.2%}"
    )
    if gates or exits:
        text += f"  executed {row['executed_share']:.1%}"
    for word, rates in (("open", gates), ("left", exits)):
        if rates:
            text += f"  {word}" + "".join(f" {rate:.2f}" for rate in rates)
    return text


def _stuck(row: Row | None) -> dict[str, str]:
    """The gates that do the same for every validation image: "open" or "shut" by block."""
    return {
        key.removeprefix("open_"): "open" if value else "shut"
        for key, value in (row or {}).items()
        if key.startswith("open_") and value in (0.0, 1.0)
    }


def collapse(network: Network, log: list[Row], warming: bool) -> str:
    """What to say of gates that decide nothing since the last epoch; "" if there is no news.

    Args:
        log: a row per epoch; not empty.
        warming: the cost is not yet in force: gates start open on purpose.
    """
    now, before = _stuck(log[-1]), _stuck(log[-2] if len(log) > 1 else None)
    settled = [b.name for b in network.gated if b.gate is not None and b.gate.kind == "static"]
    news = {
        block: state
        for block, state in now.items()
        if before.get(block) != state and block not in settled and not (warming and state == "open")
    }
    if not news:
        return ""
    states = set(now.values())
    if len(now) == len(network.gated) and len(states) == 1:
        return f"all gates are {states.pop()} for every validation image, so none decides"
    which = ", ".join(f"{block} is {state}" for block, state in news.items())
    return f"for every validation image {which}: such a gate decides nothing"

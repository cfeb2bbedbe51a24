"""The top of the page: what was run, and the figures that matter most."""

from __future__ import annotations

from html import escape

from cgate.host_tools.page.html import NONE, Value, big, deciders, percent, whole


def _choices(value: Value) -> str:
    """Where the network decides what to run, in words."""
    if not value["blocks"]:
        return "Everything runs: the network has no gates"
    text = f"{len(value['gates'])} of {value['blocks']} blocks have a gate"
    exits = len(value["answers"]) - 1
    if exits < 1:
        return text
    return f"{text}; there {'is one exit' if exits == 1 else f'are {exits} exits'}"


def header(value: Value) -> str:
    """Title, and what was run where."""
    target, run = value["target"], value["run"]
    where = "QEMU" if run["runner"] == "qemu" else "this computer, not the target"
    return (
        f"<header><h1>{escape(value['network'])} on {escape(target['name'])}</h1>"
        f'<p class="soft">{whole(run["images"])} {escape(run["split"])} images of '
        f"{escape(run['data'])}, one by one, on {where}: {escape(target['description'])}. "
        f"{_choices(value)}.</p></header>"
    )


def _tile(name: str, number: str, note: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><span>{name}</span><b>{number}</b><span>{note}</span></div>'


def tiles(value: Value) -> str:
    """The figures that matter most."""
    right, macs, counted = value["accuracy"], value["macs"], value["instructions"]
    tiles = [
        _tile(
            "Accuracy, int8",
            f"{100 * right['value']:.2f} %",
            f"± {100 * right['standard_error']:.2f} %, n = {whole(right['images'])}",
        ),
        _tile(
            "MACs executed",
            percent(macs["share"]),
            f"of the network without {deciders(value)}, which are included: "
            f"{big(macs['executed']['mean'])} "
            f"of {big(macs['dense'])}",
            "key",
        ),
    ]
    if counted is not None:
        opened = counted["all_open"]
        note = "per inference, QEMU; not latency"
        if opened is not None:
            ratio = counted["mean"] / opened["without_gates_mean"]
            note = f"{percent(ratio)} of the network without {deciders(value)}; QEMU, not latency"
        tiles.append(_tile("Instructions, mean", big(counted["mean"]), note, "key"))
    else:
        tiles.append(_tile("Instructions", NONE, "not counted: this run was not under QEMU"))
    agreement = value["agreement"]
    if agreement is None:
        tiles.append(_tile("Bit-exactness", NONE, "not checked yet: <code>cgate verify</code>"))
    else:
        equal = bool(agreement["equal"])
        tiles.append(
            _tile(
                "Bit-exactness",
                "equal" if equal else "differs",
                f"{whole(agreement['images'])} images, integer reference and "
                + ", ".join(escape(each["route"]) for each in agreement["comparisons"]),
                "good" if equal else "bad",
            )
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'

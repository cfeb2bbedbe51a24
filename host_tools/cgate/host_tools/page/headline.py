"""The top of the page: what was run, whether gating pays, and the figures that matter most."""

from __future__ import annotations

from html import escape

from cgate.host_tools.page.html import (
    NONE,
    Value,
    best,
    big,
    command,
    deciders,
    decides,
    energy_text,
    kind,
    percent,
    time_text,
    whole,
)

WHERE = {
    "qemu": "under QEMU",
    "host": "on this computer, not on the target",
    "serial": "on the board",
    "renode": "in Renode",
}


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
    return (
        f"<header><h1>{escape(value['network'])} on {escape(target['name'])}</h1>"
        f'<p class="soft">{whole(run["images"])} {escape(run["split"])} images of '
        f"{escape(run['data'])}, one by one, {WHERE[run['runner']]}: "
        f"{escape(target['description'])}. {_choices(value)}.</p></header>"
    )


def verdict(value: Value) -> str:
    """Does gating pay, and do MACs tell the truth, in words; empty without anything to decide."""
    found, account = value["verdict"], best(value)
    texts, state = [], "unknown"
    title = "Does gating pay?" if value["gates"] else "What leaving early saves"
    if found is not None:
        state = found["state"]
        texts.append(f'<p class="say">{escape(found["text"])}</p>')
    elif value["gates"]:
        texts.append(
            f'<p class="say">Not known yet. {command("measure BUNDLE")} also runs the control: '
            "the same images with every gate held at its usual decision.</p>"
        )
    if account is not None and account["savings"] is not None and account["savings"]["text"]:
        texts.append(f"<p>{escape(account['savings']['text'])}</p>")
    if not texts:
        return ""
    return f'<section class="verdict {state}"><h2>{title}</h2>{"".join(texts)}</section>'


def _tile(name: str, number: str, note: str, mark: str = "") -> str:
    return f'<div class="tile {mark}"><span>{name}</span><b>{number}</b><span>{note}</span></div>'


def _cost_tiles(value: Value, account: Value) -> list[str]:
    """What an inference costs, by the best source."""
    figures, what = account["inference"], kind(account["source"])
    modelled = ", modelled" if account["source"] == "modelled_cycles" else ""
    tiles = []
    worst = "not known: " + command("measure BUNDLE")
    if "latency_ms" in account:
        times, board = account["latency_ms"], value["board"]
        clock = f"{board['clock_hz'] / 1e6:g} MHz of {escape(board['name'])}"
        tiles.append(
            _tile(
                f"Latency{modelled}, mean",
                time_text(times["mean"]),
                f"95% of images within {time_text(times['p95'])}; {big(figures['mean'])} {what} "
                f"at {clock}",
                "key",
            )
        )
        number = time_text(times["worst"]) if "worst" in times else NONE
        tiles.append(_tile(f"Worst case{modelled}", number, _worst(value, account) or worst))
        if account["energy_uj"] is not None:
            number, _, span = energy_text(account["energy_uj"]["mean"]).partition(" <small>")
            span = span.removesuffix("</small>").strip("()")
            tiles.append(_tile("Energy, modelled, mean", number, f"per inference; {span}"))
    else:
        tiles.append(
            _tile("Instructions, mean", big(figures["mean"]), "counted in QEMU; not latency", "key")
        )
        number = big(figures["worst"]) if "worst" in figures else NONE
        tiles.append(_tile("Worst case, instructions", number, _worst(value, account) or worst))
    return tiles


def _worst(value: Value, account: Value) -> str:
    if "worst" not in account["inference"]:
        return ""
    return f"{big(account['inference']['worst'])} {kind(account['source'])}: everything runs" + (
        f", {deciders(value)} included" if decides(value) else ""
    )


def tiles(value: Value) -> str:
    """The figures that matter most."""
    right, macs, account = value["accuracy"], value["macs"], best(value)
    made = [
        _tile(
            "Accuracy, int8",
            percent(right["value"], 2),
            f"± {percent(right['standard_error'], 2)}, n = {whole(right['images'])}",
        )
    ]
    made += [] if account is None else _cost_tiles(value, account)
    if decides(value) and account is not None and account["savings"] is not None:
        saved = account["savings"]["total"]
        made.append(
            _tile(
                f"{kind(account['source']).capitalize()}",
                percent(1 - saved["cost"]),
                f"of those of the network without {deciders(value)}; of its MACs "
                f"{percent(1 - saved['macs'])}",
                "key",
            )
        )
    else:
        made.append(
            _tile(
                "MACs executed",
                percent(macs["share"]),
                f"{big(macs['executed']['mean'])} of {big(macs['dense'])}"
                + (f", the network without {deciders(value)}" if decides(value) else ""),
            )
        )
    if account is None:
        made.append(_tile("Cost", NONE, f"not counted on a computer: {command('measure BUNDLE')}"))
    made.append(_exactness(value))
    return f'<div class="tiles">{"".join(made)}</div>'


def _exactness(value: Value) -> str:
    agreement = value["agreement"]
    if agreement is None:
        return _tile("Bit-exactness", NONE, f"not checked yet: {command('verify BUNDLE')}")
    equal = bool(agreement["equal"])
    return _tile(
        "Bit-exactness",
        "equal" if equal else "differs",
        f"{whole(agreement['images'])} images, integer reference and "
        + ", ".join(escape(each["route"]) for each in agreement["comparisons"]),
        "good" if equal else "bad",
    )

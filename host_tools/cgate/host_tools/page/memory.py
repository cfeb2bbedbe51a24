"""Flash and RAM against what the target has."""

from __future__ import annotations

from html import escape

from cgate.core.targets import size_text
from cgate.host_tools.page.html import Value, bar, percent, section, whole


def memory(value: Value) -> str:
    """Flash and RAM of the program against the target's."""
    memory, target = value["memory"], value["target"]
    bars = "".join(
        bar(name, used / limit, f"{size_text(used)} <small>{percent(used / limit)}</small>")
        for name, used, limit in (
            ("flash", memory["flash"], memory["flash_limit"]),
            ("RAM", memory["ram"], memory["ram_limit"]),
        )
    )
    return section(
        "Memory",
        f"Of the whole program, against {size_text(memory['flash_limit'])} of flash and "
        f"{size_text(memory['ram_limit'])} of RAM of {escape(target['name'])}. RAM includes the "
        f"arena of {size_text(memory['arena'])} and the stack, of which at most "
        f"{whole(memory['stack'])} bytes are used.",
        f'<div class="bars">{bars}</div>',
    )

"""The whole page."""

from __future__ import annotations

from html import escape

from cgate.host_tools.page.checks import agreement, fidelity, origin
from cgate.host_tools.page.cost import cost
from cgate.host_tools.page.energy import energy
from cgate.host_tools.page.headline import header, tiles, verdict
from cgate.host_tools.page.html import Value, decides
from cgate.host_tools.page.images import Pictures, classes, examples, routes
from cgate.host_tools.page.kernels import kernels
from cgate.host_tools.page.memory import memory
from cgate.host_tools.page.routes import answers, gates
from cgate.host_tools.page.savings import savings
from cgate.host_tools.page.scatter import scatter
from cgate.host_tools.page.style import CSS
from cgate.host_tools.page.units import units


def page(value: Value, pictures: Pictures) -> str:
    """The whole page.

    Args:
        value: the content of report.json.
        pictures: uint8 [H, W, C] by image index, for the examples; may be empty.
    """
    sections = [verdict(value), tiles(value)]
    if decides(value):
        sections.append(savings(value))
    sections += [scatter(value), cost(value)]
    if value["gates"]:
        sections.append(gates(value))
    if value["answers"]:
        sections.append(answers(value))
    if decides(value):
        sections.append(routes(value))
    if value["examples"]["cheapest"] and decides(value):
        sections.append(examples(value, pictures))
    sections += [energy(value), memory(value), units(value), kernels(value), classes(value)]
    if value["agreement"] is not None:
        sections.append(agreement(value))
    if value["fidelity"] is not None:
        sections.append(fidelity(value))
    sections.append(origin(value))
    title = f"{escape(value['network'])} on {escape(value['target']['name'])}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>cgate: {title}</title><style>{CSS}</style></head><body><main>"
        + header(value)
        + "\n".join(part for part in sections if part)
        + f'<footer>Plan <span class="mono">{value["plan_sha256"]}</span>. '
        "The same figures as data: report.json.</footer></main></body></html>\n"
    )

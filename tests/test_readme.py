"""README and results/ agree: figures are re-derived, commands exist, the C compiles."""

import csv
import json
import re
import statistics
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from cgate.core.costs import SHAPE_COLUMNS
from cgate.core.gates import GATE_KINDS
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.cli import cgate
from cgate.host_tools.page.savings import savings_svg
from synthetic import small_network, write_checkpoint

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def demo_table() -> list[str]:
    """The README's table of the demo, from the report and card in results/."""
    folder = ROOT / "results/demo-digits"
    report = json.loads((folder / "report.json").read_text())
    card = json.loads((folder / "card.json").read_text())
    accuracy, macs = report["accuracy"], report["macs"]
    instructions, held = report["instructions"], report["verdict"]
    majority = card["controls"]["majority"]
    opened = ", ".join(f"{gate['open']:.1%}" for gate in report["gates"])
    values = sum(each["values"] for each in report["agreement"]["comparisons"])
    saved = 1 - instructions["mean"] / instructions["all_open"]["without_gates_mean"]
    memory = report["memory"]
    return [
        f"`make demo`, seed {card['seed']}, commit {card['commit'][:12]}, n = {report['images']} "
        f"held-out digits, int8 on an emulated Cortex-M4 ({report['target']['name']}):",
        "",
        "| | |",
        "|---|---|",
        f"| accuracy | {accuracy['value']:.1%} ± {accuracy['standard_error']:.1%} "
        "(standard error) |",
        f"| gates open | {opened} |",
        f"| executed MACs, gates included | {macs['executed']['mean']:,.0f} of {macs['dense']:,} "
        f"({macs['share']:.1%}) |",
        f"| instructions per inference | {instructions['mean']:,.0f}, {saved:.1%} fewer than the "
        f"same network without gates; 5 % to 95 %: {instructions['p5']:,} to "
        f"{instructions['p95']:,} |",
        f"| modelled cycles per inference | {report['cycles']['mean']:,.0f} |",
        f"| flash, RAM, stack | {memory['flash']:,} B, {memory['ram']:,} B, {memory['stack']} B |",
        f"| reference = TFLite = host C = QEMU | {values:,} int8 values compared, "
        f"{sum(each['differing'] for each in report['agreement']['comparisons'])} differ |",
        f"| the same with each gate held at its usual decision | {held['accuracy']['value']:.1%} ± "
        f"{held['accuracy']['standard_error']:.1%}, "
        f"{held['cost']['modelled_cycles']:,.0f} modelled cycles; {held['text']} |",
        f"| control: each gate frozen at its majority (float) | {majority['accuracy']:.1%} at "
        f"{majority['executed_macs'] / card['dense_macs']:.1%} of the MACs |",
        seeds_row(),
    ]


def seeds_row() -> str:
    """Mean and standard deviation over seeds that no setting was chosen on."""
    with (ROOT / "results/demo-seeds.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))

    def mean(column: str) -> float:
        return statistics.mean(float(row[column]) for row in rows)

    spread = statistics.stdev(float(row["top1_int8"]) for row in rows)
    return (
        f"| seeds {rows[0]['seed']} to {rows[-1]['seed']}, untouched by tuning | accuracy "
        f"{mean('top1_int8'):.2%} ± {spread:.2%} (standard deviation) "
        f"at {mean('executed_share'):.1%} of the MACs; "
        f"frozen at the majority (float) {mean('top1_majority'):.2%} "
        f"at {mean('majority_share'):.1%} |"
    )


def network_table() -> list[str]:
    """The README's table of whole networks, beside CMSIS-NN."""
    with (ROOT / "results/network.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    head = ["network", "target", "kernels", "instructions", "modelled cycles", "MAC per cycle"]
    lines = [f"| {' | '.join([*head, 'flash', 'RAM'])} |", "|---|---|---|---|---|---|---|---|"]
    theirs = {
        (row["network"], row["target"]): int(row["cycles_flash"])
        for row in rows
        if row["kernels"] == "cmsis-nn"
    }
    for row in rows:
        cycles = int(row["cycles_flash"])
        gain = theirs[row["network"], row["target"]] / cycles
        if row["kernels"] == "ref":
            continue
        cells = [row["network"], row["target"], row["kernels"], f"{int(row['instructions']):,}"]
        cells.append(f"{cycles:,}" + (f" ({gain:.2f}x)" if row["kernels"] != "cmsis-nn" else ""))
        cells.append(f"{int(row['macs']) / cycles:.2f}")
        cells += [f"{int(row['flash']):,} B", f"{int(row['ram']):,} B"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def published_table() -> list[str]:
    """DESIGN's table of the cycle model beside a published measurement."""
    with (ROOT / "results/published.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["options"] == "-O2"]
    kinds = {"cmsis-nn V.19.1.0": "new", "cmsis-nn V.10.1.2": "old", "auto": "chosen"}
    cycles: dict[tuple[str, str], int] = {}
    for row in rows:
        kind = kinds.get(f"{row['kernels']} {row['cmsis_nn']}".strip())
        if kind is not None:
            cycles[row["flash_access"], kind] = int(row["cycles"])
    lines = ["| flash access | CMSIS-NN 5126318 | of the published | CMSIS-NN 99f736a | chosen |"]
    lines.append("|---|---|---|---|---|")
    for access in dict.fromkeys(row["flash_access"] for row in rows):
        old, new, chosen = (cycles[access, kind] for kind in ("old", "new", "chosen"))
        share = f"{old / int(rows[0]['published']):.0%}"
        lines.append(f"| {access} | {old:,} | {share} | {new:,} | {chosen:,} |")
    return lines


def test_the_published_table_is_what_results_say() -> None:
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- table: results/published.csv -->\n(.*?)<!-- end -->", text, re.S)
    assert match is not None
    assert match.group(1).strip().splitlines() == published_table()


def gates_table() -> list[str]:
    """The README's table of shipped checkpoints and what their gates are worth."""
    with (ROOT / "results/gates.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = [
        f"int8 plan in host C, n = {int(rows[0]['n_images']):,} test images of CIFAR-10, one seed:",
        "",
        "| checkpoint | network | decides | epochs | accuracy | executed MACs | "
        "each gate at its majority | decisions of other images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        controls = ["-", "-"]
        if row["kind"] in GATE_KINDS:
            controls[0] = f"{float(row['top1_majority']):.2%} at {float(row['majority_macs']):,.0f}"
        if row["kind"] in GATE_KINDS or row["left"]:
            controls[1] = f"{float(row['top1_shuffled']):.2%}"
        cells = [f"`{row['checkpoint']}`", row["network"], row["kind"], row["epochs"]]
        cells += [f"{float(row['top1']):.2%}", f"{float(row['executed_macs']):,.0f}", *controls]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def savings_table() -> list[str]:
    """The README's table of what each gate saves, by MACs and by cycles."""
    value = json.loads((ROOT / "results/resnet20-balanced/measure.json").read_text())
    cycles, board = value["accounts"][-1], value["board"]
    times = cycles["latency_ms"]
    joules = [uj / 1000 for uj in cycles["energy_uj"]["mean"]]
    lines = [
        f"`models/resnet20-balanced` on {value['target']}, n = {value['images']:,} "
        f"{value['split']} images of CIFAR-10; shares of the network without gates, less what the "
        "gates cost:",
        "",
        "| block | gate open | MACs saved | modelled cycles saved | MACs promise too much by |",
        "|---|---|---|---|---|",
    ]
    rows = [
        (row["block"], f"{row['open']:.1%}", row["macs"]["saved"], row["cost"]["saved"])
        for row in cycles["savings"]["blocks"]
    ]
    total = cycles["savings"]["total"]
    for name, opened, macs, cost in (*rows, ("**all**", "", total["macs"], total["cost"])):
        gap = 100 * (macs - cost)
        lines.append(f"| {name} | {opened} | {macs:.2%} | {cost:.2%} | {gap:+.2f} points |")
    return [
        *lines,
        "",
        f"{value['verdict']['text']} Modelled latency at {board['clock_hz'] / 1e6:g} MHz: "
        f"{times['mean']:.1f} ms on average, 95 % of the images within {times['p95']:.1f} ms, "
        f"worst case {times['worst']:.1f} ms; modelled energy {joules[0]:.2f} mJ "
        f"({joules[1]:.2f} to {joules[2]:.2f}).",
        "",
        "![Modelled cycles saved against MACs saved, per block]"
        "(results/resnet20-balanced/savings.svg)",
    ]


def cycles_sentence() -> str:
    """What the longer exits and the best static network take on a board, by its model.

    A unit takes the same cycles for every image, so few images tell; how often it runs is
    counted over all of them.
    """
    with (ROOT / "results/gates.csv").open(newline="") as stream:
        rows = {row["checkpoint"]: row for row in csv.DictReader(stream)}
    means, worst, images = [], 0, set()
    for name in ("resnet-2-2-5-exit-balanced", "resnet20-static"):
        value = json.loads((ROOT / f"results/{name}/measure.json").read_text())
        assert value["target"] == "nucleo-l4r5zi"
        images.add(value["images"])
        left = dict(each.split() for each in rows[name]["left"].split(", ") if each)
        cycles, share = 0.0, 1.0
        account = value["accounts"][-1]
        for unit in account["units"]:
            cost = unit["cost"]
            assert cost["max"] - cost["min"] < 1e-4 * account["inference"]["min"]
            cycles += share * cost["mean"]
            share -= float(left[unit["block"]]) if unit["role"] == "exit" else 0
        means.append(cycles)
        worst = max(worst, account["inference"]["worst"])
    (count,) = images
    return (
        f"It holds in cycles too, if by less: the model of the NUCLEO-L4R5ZI gives the exits "
        f"{means[0] / 1e6:.2f} M on average and `resnet20-static` {means[1] / 1e6:.2f} M, but "
        f"{worst / 1e6:.2f} M in the worst case (each unit's cycles, alike for all of {count} "
        "images, times how often the 10,000 run it)."
    )


def test_the_cycles_of_exits_and_static_are_what_results_say() -> None:
    assert cycles_sentence() in README


EXITS = "results/resnet-1-1-5-exit-taught/measure.json"


def exits_table() -> list[str]:
    """The README's table of where images leave, and what that saves."""
    value = json.loads((ROOT / EXITS).read_text())
    cycles, board = value["accounts"][-1], value["board"]
    times, saved = cycles["latency_ms"], cycles["savings"]["total"]
    lines = [
        f"`models/{Path(EXITS).parent.name}` on {value['target']}, n = {value['images']:,} "
        f"{value['split']} images of CIFAR-10, int8:",
        "",
        "| answers | images | of them right | MACs | instructions |",
        "|---|---|---|---|---|",
    ]
    for row in value["answers"]:
        name = f"exit behind {row['block']}" if row["block"] else "head"
        counts = f"{row['macs_mean']:,.0f} | {row['instructions_mean']:,.0f}"
        lines.append(f"| {name} | {row['share']:.1%} | {row['accuracy']:.1%} | {counts} |")
    return [
        *lines,
        "",
        f"Accuracy {value['accuracy']['value']:.2%} at {value['macs']['executed']['mean']:,.0f} "
        f"MACs: {saved['macs']:.1%} of the MACs saved are {saved['cost']:.1%} of the modelled "
        f"cycles. Modelled latency at {board['clock_hz'] / 1e6:g} MHz: {times['mean']:.1f} ms on "
        f"average, median {times['median']:.1f} ms, worst case {times['worst']:.1f} ms.",
    ]


def test_the_exits_table_is_what_results_say() -> None:
    match = re.search(rf"<!-- table: {EXITS} -->\n(.*?)<!-- end -->", README, re.S)
    assert match is not None
    assert match.group(1).strip().splitlines() == exits_table()


def test_the_savings_table_and_picture_are_what_results_say() -> None:
    match = re.search(
        r"<!-- table: results/resnet20-balanced/measure.json -->\n(.*?)<!-- end -->", README, re.S
    )
    assert match is not None
    assert match.group(1).strip().splitlines() == savings_table()
    folder = ROOT / "results/resnet20-balanced"
    value = json.loads((folder / "measure.json").read_text())
    assert (folder / "savings.svg").read_text(encoding="utf-8") == savings_svg(value)


def test_the_gates_table_is_what_results_say() -> None:
    match = re.search(r"<!-- table: results/gates.csv -->\n(.*?)<!-- end -->", README, re.S)
    assert match is not None
    assert match.group(1).strip().splitlines() == gates_table()


def kernels_table() -> list[str]:
    """The README's table of convolutions beside CMSIS-NN's."""
    with (ROOT / "results/kernels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = ["| layer, 3x3 | target | CMSIS-NN | Winograd | Winograd, int8 weights |"]
    lines.append("|---|---|---|---|---|")
    for target in ("mps2-an386", "netduinoplus2"):
        for channels, size in (("16", "32"), ("32", "16"), ("64", "8")):
            found = {
                row["kernel"].removeprefix("conv2d_s8__"): row
                for row in rows
                if row["target"] == target
                and row["kernel"].startswith("conv2d_s8__")
                and (row["in_channels"], row["out_channels"]) == (channels, channels)
                and (row["in_height"], row["kernel_height"], row["stride"]) == (size, "3", "1")
            }
            theirs = int(found["cmsis_nn"]["cycles_flash"])
            cells = [f"{theirs:,}"]
            for kernel in ("dsp_winograd", "dsp_winograd_int8"):
                cycles = int(found[kernel]["cycles_flash"])
                cells.append(f"{cycles:,} ({theirs / cycles:.2f}x)")
            name = f"{channels} channels, {size}x{size}"
            lines.append(f"| {name} | {target} | {' | '.join(cells)} |")
    return lines


def test_the_kernels_table_is_what_results_say() -> None:
    match = re.search(r"<!-- table: results/kernels.csv -->\n(.*?)<!-- end -->", README, re.S)
    assert match is not None
    assert match.group(1).strip().splitlines() == kernels_table()


def test_no_layer_takes_more_instructions_than_with_cmsis_nn_on_cortex_m55() -> None:
    theirs: dict[tuple[str, ...], int] = {}
    ours: dict[tuple[str, ...], int] = {}
    with (ROOT / "results/kernels.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            op, variant = row["kernel"].split("__")
            layer = (op, *(row[column] for column in SHAPE_COLUMNS))
            if row["target"] == "mps3-an547":
                count = int(row["instructions"])
                least = theirs if variant == "cmsis_nn" else ours
                least[layer] = min(count, least.get(layer, count))
    assert len(theirs) > 9
    assert {layer for layer, count in theirs.items() if ours[layer] > count} == set()
    saved = [1 - ours[layer] / count for layer, count in theirs.items() if layer[0] == "conv2d_s8"]
    assert (
        f"convolutions take {min(saved) * 100:.0f} to {max(saved):.0%} fewer".replace("%", " %")
        in README
    )


def test_the_network_table_is_what_results_say() -> None:
    match = re.search(r"<!-- table: results/network.csv -->\n(.*?)<!-- end -->", README, re.S)
    assert match is not None
    assert match.group(1).strip().splitlines() == network_table()


def test_the_demo_table_is_what_results_say() -> None:
    match = re.search(r"<!-- table: results/demo-digits -->\n(.*?)<!-- end -->", README, re.S)
    assert match is not None
    assert match.group(1).strip().splitlines() == demo_table()


def test_every_command_in_the_readme_exists() -> None:
    commands = re.findall(r"(?:`|^    )cgate ([a-z]+(?: download)?)\b", README, re.M)
    assert len(commands) > 8
    for command in set(commands):
        words = command.split()
        result = CliRunner().invoke(cgate, [*words[: 2 if words[0] == "data" else 1], "--help"])
        assert result.exit_code == 0, command


def test_every_option_in_the_readme_exists() -> None:
    for line in README.splitlines():
        match = re.match(r"    cgate (\w+) ([^#]*)", line)
        if match:
            text = CliRunner().invoke(cgate, [match.group(1), "--help"]).output
            for option in re.findall(r"--[a-z-]+", match.group(2)):
                assert option in text, line


@pytest.mark.parametrize("compiler", ["gcc", "arm-none-eabi-gcc"])
def test_the_example_compiles(compiler: str, tmp_path: Path) -> None:
    match = re.search(r"```c\n(.*?)```", README, re.S)
    assert match is not None
    checkpoint = write_checkpoint(tmp_path / "checkpoint", small_network(), images=2)
    export_checkpoint(checkpoint.folder, tmp_path / "bundle", find_target("cortex-m4"))
    source = tmp_path / "classify.c"
    source.write_text(match.group(1))
    include = [f"-I{tmp_path / 'bundle/c'}", f"-I{ROOT / 'firmware/include'}"]
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]
    subprocess.run([compiler, *flags, *include, str(source)], check=True)


def test_every_option_of_the_measurements_exists() -> None:
    text = (ROOT / "results/README.md").read_text(encoding="utf-8")
    lines = re.findall(r"`cgate (\w+) ([^`]*)`", text)
    assert lines
    for command, rest in lines:
        words = [command, *rest.split()[:1]] if command in ("bench", "data") else [command]
        help_text = CliRunner().invoke(cgate, [*words, "--help"]).output
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in help_text, (command, option)

"""The generated C: clean under every warning, no state, nothing but the plan's numbers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cgate.core.plan import Plan, Weights
from cgate.core.targets import find_target
from cgate.export.emit_c import emit_c
from cgate.export.lower import lower
from synthetic import small_network, write_checkpoint

WARNINGS = [
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wshadow",
    "-Wmissing-prototypes",
    "-Wvla",
    "-Werror",
]
INCLUDE = Path(__file__).parents[2] / "firmware/include"


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Weights]:
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), small_network(), seed=1)
    return lower(checkpoint, find_target("cortex-m4"), name="tiny")


@pytest.mark.parametrize("compiler", ["gcc", "clang", "arm-none-eabi-gcc"])
@pytest.mark.parametrize(("width", "kernels"), [(8, "ref"), (8, "auto"), (40, "ref")])
def test_compiles_without_warnings_or_state(
    compiler: str, width: int, kernels: str, tmp_path: Path
) -> None:
    if shutil.which(compiler) is None:
        package = {"arm-none-eabi-gcc": "gcc-arm-none-eabi"}.get(compiler, compiler)
        pytest.skip(f"{compiler} is missing: apt-get install {package}")
    network = small_network(width=width, exits=("s1b0", "s2b1"))
    checkpoint = write_checkpoint(tmp_path, network)
    target = find_target("cortex-m4")
    files = emit_c(*lower(checkpoint, target, name="tiny", kernels=kernels), "00" * 32)
    # Winograd's weights are eight times as large.
    assert ("tiny_weights.c" in files) == ((width, kernels) != (8, "ref"))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert text.isascii()
    core = ["-mcpu=cortex-m4", "-mthumb"] if compiler.startswith("arm") else []
    for name in files:
        if name.endswith(".c"):
            output = tmp_path / f"{name}.o"
            command = [compiler, *WARNINGS, *core, "-O2", f"-I{INCLUDE}", f"-I{tmp_path}"]
            subprocess.run([*command, "-c", str(tmp_path / name), "-o", str(output)], check=True)
            sections = subprocess.run(
                ["size", "-A", str(output)], check=True, capture_output=True, text=True
            ).stdout
            sizes = dict(re.findall(r"^(\.\S+)\s+(\d+)", sections, re.M))
            assert sizes.get(".data", "0") == sizes.get(".bss", "0") == "0", sections


def test_header_is_cpp(lowered: tuple[Plan, Weights], tmp_path: Path) -> None:
    (tmp_path / "tiny.h").write_text(emit_c(*lowered, "00" * 32)["tiny.h"])
    (tmp_path / "use.cpp").write_text('#include "tiny.h"\nint main() { return 0; }\n')
    command = ["g++", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}", f"-I{tmp_path}"]
    subprocess.run([*command, "-fsyntax-only", str(tmp_path / "use.cpp")], check=True)


def test_tables_are_the_plan_weights(lowered: tuple[Plan, Weights]) -> None:
    plan, weights = lowered
    # With packed weights too: these stand beside the plain ones, which the host uses.
    text = "\n".join(emit_c(plan, weights, "00" * 32).values())
    for name, array in weights.items():
        if name.endswith(".scale"):
            continue
        symbol = "tiny_" + name.replace(".", "_")
        match = re.search(rf"{symbol}\[\d+\] = \{{(.*?)\}};", text, re.S)
        assert match, symbol
        numbers = match.group(1).replace("INT32_MIN", str(-(2**31))).replace("\n", "")
        assert [int(n) for n in numbers.split(",") if n.strip()] == array.reshape(-1).tolist()


def test_a_body_is_called_only_behind_its_gate(lowered: tuple[Plan, Weights]) -> None:
    plan, weights = lowered
    text = emit_c(plan, weights, "00" * 32)["tiny.c"]
    for unit in plan.units:
        if unit.condition is None:
            continue
        gate = "open_" + unit.condition.replace(".", "_")
        block = re.search(rf"if \({gate}\) \{{\n(.*?)\n    \}}", text, re.S)
        assert block
        body = f"&tiny_{unit.block}_conv1_op"
        assert body in block.group(1)
        assert text.count(body) == 1

"""Bundles around tests/firmware/tiny: a network written by hand, without the exporter."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cgate.core.files import read_json, sha256, write_json, write_text
from cgate.host_tools.toolchain import ARM_GCC, HOST_CC, QEMU, Tool

SOURCES = Path(__file__).parents[1] / "firmware" / "tiny"
UNITS = ("stem", "b0.gate", "b0.body", "head")
SHAPE = (6, 5, 2)


def needs(*tools: Tool) -> None:
    """Skip the calling test, with the command that installs it, where a tool is missing."""
    for tool in tools:
        if shutil.which(tool.name) is None:
            pytest.skip(f"{tool.name} is missing: {tool.install}")


def needs_host() -> None:
    needs(HOST_CC)


def needs_qemu() -> None:
    needs(ARM_GCC, QEMU, HOST_CC)


def write_bundle(
    folder: Path, *, inject: str = "", arena: int = 256, table: int = 0, name: str = "tiny"
) -> Path:
    """A bundle of the tiny network in `folder`.

    Args:
        inject: C statements to run first in the body.
        arena: bytes of the arena; only the first 256 are used.
        table: bytes of constants to add to the program.
        name: of the model.
    """
    write_json(folder / "plan.json", {"schema": 1, "units": [{"name": unit} for unit in UNITS]})
    (folder / "weights.npz").write_bytes(b"")
    digest = sha256((folder / "plan.json").read_bytes())
    code = (SOURCES / "tiny.c").read_text().replace("/* inject */", inject)
    header = (SOURCES / "tiny.h").read_text()
    header = header.replace("ARENA_SIZE 256", f"ARENA_SIZE {arena}")
    bytes_ = ", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(digest))
    header = header.replace("extern", f"#define TINY_PLAN_SHA256 {{ {bytes_} }}\n\nextern", 1)
    if table:
        code = code.replace(
            "static const int8_t stem",
            f"extern const int8_t padding[{table}];\nconst int8_t padding[{table}] = {{1}};\n"
            "static const int8_t stem",
            1,
        ).replace(
            "CG_TRY(cg_check(input, output, arena));",
            "CG_TRY(cg_check(input, output, arena));\n"
            "    if (padding[(uint8_t)input[0] * 16] == 2) {\n        return CG_ERR_PARAM;\n    }",
        )
    for path, text in ((f"{name}.c", code), (f"{name}.h", header)):
        text = text.replace("tiny", name).replace("TINY", name.upper())
        write_text(folder / "c" / path, text)
    assert read_json(folder / "plan.json", "plan")["units"]
    return folder


def images(count: int, seed: int = 0) -> NDArray[np.int8]:
    """int8 [count, 6, 5, 2]; about half of them open the gate."""
    rng = np.random.default_rng(seed)
    level = rng.integers(-90, 91, (count, 1, 1, SHAPE[2]))
    noise = rng.integers(-37, 38, (count, *SHAPE))
    return (level + noise).astype(np.int8)

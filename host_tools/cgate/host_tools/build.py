"""Compiling a bundle's C code with the firmware, for a target or for this computer."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import read_json, replaced_folder, sha256, write_json
from cgate.core.plan import PLAN, WEIGHTS, load_bundle, no_plan
from cgate.core.progress import Progress, Silent
from cgate.core.targets import Target, all_targets, size_text
from cgate.export.kernels import NEEDS_CMSIS_NN
from cgate.host_tools.cmsis_nn import CmsisNn, find_cmsis_nn
from cgate.host_tools.stack import EXCEPTION_FRAME, read_call_graph, stack_bound
from cgate.host_tools.toolchain import ARM_GCC, ARM_SIZE, HOST_CC, find, firmware_folder, version

SCHEMA = 1
BUILD_JSON = "build.json"
APPS = {"stream": "stream", "mlperf": "mlperf", "mlperf-energy": "mlperf"}
"""What a program speaks, and the folder of firmware/apps that does."""
BAUD = 115200
ENERGY_BAUD = 9600
"""MLPerf Tiny's, in energy mode."""
STACK_SIZE = 4096
"""Bytes of RAM that every target program reserves for its stack."""

WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wshadow",
    "-Wmissing-prototypes",
    "-Wvla",
)
_PORTS = ("port/chip", "port/cortex_m", "port/uart")
COMMON_FLAGS = ("-std=c11", *WARNINGS, "-g", "-ffunction-sections", "-fdata-sections")
# The host program answers whole test sets: speed counts, size does not.
HOST_FLAGS = ("-O3",)
ARM_FLAGS = ("-O2", "-fcallgraph-info=su")
ARM_LINK_FLAGS = (
    "-nostartfiles",
    "--specs=nano.specs",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
    "-Wl,--fatal-warnings",
)


@dataclass(frozen=True)
class Build:
    """A program, ready to run.

    Args:
        folder: where it and build.json lie.
        program: the executable (ELF).
        on: "qemu" or "host".
        io: "semihosting" or "uart"; "pipe" on the host.
        target: None on the host.
        plan_sha256: identity of the bundle it was built from.
        units: names of the plan's units, in order.
        flash: bytes of code and constants; None on the host.
        ram: bytes of variables, buffers, arena and reserved stack; None on the host.
        stack: bound on the bytes of stack used (`stack.stack_bound`); None on the host.
    """

    folder: Path
    program: Path
    on: str
    io: str
    target: Target | None
    plan_sha256: str
    units: tuple[str, ...]
    flash: int | None
    ram: int | None
    stack: int | None


@dataclass(frozen=True)
class _Recipe:
    """Everything that decides what comes out."""

    compiler: Path
    compiler_version: str
    sources: tuple[Path, ...]
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    cmsis_nn: CmsisNn | None


def model_name(bundle: Path) -> str:
    """The name that prefixes the bundle's C files and identifiers.

    Raises:
        CgateError: the bundle has no C code.
    """
    headers = sorted((bundle / "c").glob("*.h"))
    if len(headers) != 1:
        raise CgateError(
            f"{bundle} is no bundle: {bundle / 'c'} holds {len(headers)} headers instead of one",
            "a bundle is the folder that `cgate export CHECKPOINT --out FOLDER` writes",
        )
    return headers[0].stem


def app_flags(name: str, app: str = "stream", scale: float = 1.0) -> tuple[str, ...]:
    """Definitions that tell an app which model it serves, and how.

    Args:
        scale: of the logits; only MLPerf's app, which reports probabilities, needs it.
    """
    upper = name.upper()
    return (
        *((f"-DCG_APP_DECAY={round(2**31 * math.exp(-scale))}u",) if app != "stream" else ()),
        *(("-DCG_APP_ENERGY=1",) if app == "mlperf-energy" else ()),
        f'-DCG_APP_HEADER="{name}.h"',
        f"-DCG_APP_MODEL={name}_model",
        *(
            f"-DCG_APP_{what}={upper}_{what}{suffix}"
            for what, suffix in (
                ("INPUT", "_SIZE"),
                ("OUTPUT", "_SIZE"),
                ("ARENA", "_SIZE"),
                ("GATES", ""),
            )
        ),
    )


def uart_flags(target: Target, baud: int = BAUD) -> tuple[str, ...]:
    """Definitions for the chip's start-up code and the UART driver."""
    return (
        f"-DCG_CLOCK_HZ={target.clock_hz}u",
        f"-DCG_UART_BASE={target.uart_base:#x}u",
        f"-DCG_UART_BAUD={baud}u",
        *(target.board.macros if target.board else ()),
    )


def include_flags(bundle: Path) -> tuple[str, ...]:
    """Folders with headers. Their names do not get into the program."""
    firmware = firmware_folder()
    return (
        *(f"-I{firmware / folder}" for folder in ("include", "port", *_PORTS)),
        f"-I{bundle / 'c'}",
        f"-ffile-prefix-map={firmware}=firmware",
        f"-ffile-prefix-map={bundle}=bundle",
    )


def sources(
    bundle: Path, io: str, target: Target | None = None, app: str = "stream"
) -> tuple[Path, ...]:
    """All C files of a program.

    Args:
        io: "pipe", "semihosting" or "uart".
        target: whose chip and UART, for "uart".
        app: a key of APPS.
    """
    firmware = firmware_folder()
    port = firmware / "port"
    files = [*sorted((bundle / "c").glob("*.c")), *sorted((firmware / "src").rglob("*.c"))]
    files.append(firmware / "apps" / APPS[app] / "main.c")
    if io == "pipe":
        return (*files, port / "host" / "cg_host.c")
    core = port / "cortex_m"
    files += [core / f"cg_{name}.c" for name in ("startup", "fault", "cycles")]
    if io == "uart" and target is not None:
        files += [port / "uart" / "cg_uart.c", port / "uart" / f"cg_uart_{target.uart}.c"]
        return (*files, core / "cg_time.c", port / "chip" / f"cg_chip_{target.chip}.c")
    return (*files, core / "cg_semihosting.c")


def target_link_flags(target: Target) -> tuple[str, ...]:
    """What lays a program out in the target's memories."""
    numbers = {
        "CG_FLASH_ORIGIN": target.flash.origin,
        "CG_FLASH_SIZE": target.flash.size,
        "CG_RAM_ORIGIN": target.ram.origin,
        "CG_RAM_SIZE": target.ram.size,
        "CG_STACK_SIZE": STACK_SIZE,
    }
    if target.code_ram is not None:
        numbers |= {"CG_CODE_ORIGIN": target.code_ram.origin, "CG_CODE_SIZE": target.code_ram.size}
    scripts = firmware_folder() / "port" / "cortex_m"
    place = "code_in_flash" if target.code_ram is None else "code_in_ram"
    # The script must come after the symbols that it uses.
    return (
        *ARM_LINK_FLAGS,
        *(f"-Wl,--defsym={name}={number:#x}" for name, number in numbers.items()),
        f"-Wl,-L,{scripts / place}",
        f"-Wl,-T,{scripts / 'cg_target.ld'}",
    )


def _recipe(
    bundle: Path, target: Target | None, io: str, app: str, cmsis_nn: CmsisNn | None
) -> _Recipe:
    scale = 1.0 if app == "stream" else _output_scale(bundle)
    flags = (*COMMON_FLAGS, *include_flags(bundle), *app_flags(model_name(bundle), app, scale))
    if target is None:
        return _Recipe(
            find(HOST_CC),
            version(HOST_CC),
            sources(bundle, io, app=app),
            (*flags, *HOST_FLAGS),
            ("-Wl,--gc-sections",) if os.uname().sysname == "Linux" else (),
            None,
        )
    library: tuple[str, ...] = ()
    if cmsis_nn is not None:
        library = (*cmsis_nn.flags, f"-ffile-prefix-map={cmsis_nn.folder}=cmsis-nn")
    baud = ENERGY_BAUD if app == "mlperf-energy" else BAUD
    return _Recipe(
        find(ARM_GCC),
        version(ARM_GCC),
        (*sources(bundle, io, target, app), *(cmsis_nn.sources if cmsis_nn else ())),
        (
            *(*target.cflags, *flags, *ARM_FLAGS, *library),
            *(uart_flags(target, baud) if io == "uart" else ()),
        ),
        (*target.cflags, *target_link_flags(target)),
        cmsis_nn,
    )


def _output_scale(bundle: Path) -> float:
    """What one step of the logits is worth."""
    plan = load_bundle(bundle).plan
    return float(plan.tensor(plan.output).scale)


def _key(recipe: _Recipe, bundle: Path, plan_sha256: str) -> str:
    """Changes whenever the program would."""
    firmware = firmware_folder()
    files = [*recipe.sources, *sorted((bundle / "c").glob("*.h"))]
    files += [p for p in sorted(firmware.rglob("*")) if p.suffix in (".h", ".inc", ".ld")]
    parts = [recipe.compiler_version, *recipe.flags, *recipe.link_flags, plan_sha256]
    roots = {"firmware": firmware, "bundle": bundle}
    if recipe.cmsis_nn is not None:
        roots["cmsis-nn"] = recipe.cmsis_nn.folder
        files += sorted((recipe.cmsis_nn.folder / "Include").rglob("*.h"))
    # Moving the folders must not cause a rebuild.
    for name, root in roots.items():
        parts = [part.replace(str(root), name) for part in parts]
    for path in files:
        root = next(each for each in roots.values() if path.is_relative_to(each))
        parts += [str(path.relative_to(root)), sha256(path.read_bytes())]
    return sha256("\0".join(parts).encode())


def _compile(recipe: _Recipe, bundle: Path, folder: Path) -> list[Path]:
    """Object files of all sources, in their order."""

    def compile_one(source: Path) -> Path:
        item = folder / f"{source.stem}.o"
        # The code of others is not held to the library's warnings.
        own = recipe.cmsis_nn is None or not source.is_relative_to(recipe.cmsis_nn.folder)
        quiet = () if own else ("-w",)
        result = subprocess.run(
            [recipe.compiler, *recipe.flags, *quiet, "-c", source, "-o", item],
            cwd=bundle,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise CgateError(
                f"{source.name} does not compile:\n{result.stderr.strip()[:2000]}",
                "export the bundle again",
            )
        return item

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, recipe.sources))


def _link(recipe: _Recipe, objects: Sequence[Path], program: Path, target: Target | None) -> None:
    result = subprocess.run(
        [recipe.compiler, *objects, *recipe.link_flags, "-o", program],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 0:
        return
    overflows = {
        region: int(size)
        for region, size in re.findall(r"region `(\w+)' overflowed by (\d+) bytes?", result.stderr)
    }
    if target is None or not overflows:
        raise CgateError(f"the program does not link:\n{result.stderr.strip()[:2000]}")
    raise _too_big(target, overflows, objects)


def _sections(files: Sequence[Path]) -> dict[str, int]:
    """Bytes by kind of section, summed over object files or of a program."""
    result = subprocess.run(
        [find(ARM_SIZE), "-A", "-d", *files], capture_output=True, text=True, check=True
    )
    sizes: dict[str, int] = {}
    for name, size in re.findall(r"^(\.\w+)\S*\s+(\d+)\s+\d+\s*$", result.stdout, re.MULTILINE):
        sizes[name] = sizes.get(name, 0) + int(size)
    return sizes


def _too_big(target: Target, overflows: Mapping[str, int], objects: Sequence[Path]) -> CgateError:
    """The error for a program that does not fit: by how much, why, and what would fit."""
    used = _sections(objects)
    variables = used.get(".data", 0) + used.get(".bss", 0)
    # The linker is exact about what overflows; before linking, the rest can only be bounded.
    flash = used.get(".text", 0) + used.get(".rodata", 0) + used.get(".data", 0)
    ram = variables + STACK_SIZE
    if "flash" in overflows:
        flash = target.flash.size + overflows["flash"]
    if "ram" in overflows:
        ram = target.ram.size + overflows["ram"]
    what = {
        "flash": (
            target.flash.size,
            f"weights and tables {size_text(used.get('.rodata', 0))}, "
            f"code {size_text(used.get('.text', 0))}",
        ),
        "ram": (
            target.ram.size,
            f"arena, input and output {size_text(variables)}, stack {size_text(STACK_SIZE)}",
        ),
    }
    if target.code_ram is not None:
        what["code"] = (
            target.code_ram.size,
            f"code {size_text(used.get('.text', 0))}, which runs from RAM",
        )
    lines = [
        f"the program does not fit {target.name}: {region} of {size_text(what[region][0])} "
        f"overflows by {size} bytes ({what[region][1]})"
        for region, size in sorted(overflows.items())
    ]
    fitting = [
        other.name for other in all_targets() if other.flash.size >= flash and other.ram.size >= ram
    ]
    return CgateError(
        "\n".join(lines),
        f"targets with enough memory: {', '.join(fitting)}"
        if fitting
        else "no known target has enough memory; train a smaller network",
        EXIT_CHECK_FAILED,
    )


def _identity(bundle: Path) -> tuple[str, tuple[str, ...], bool]:
    """plan_sha256, the names of the units, and whether Arm's CMSIS-NN computes some of them."""
    plan = read_json(bundle / PLAN, "the bundle's plan", no_plan(bundle))
    try:
        units = tuple(str(unit["name"]) for unit in plan["units"])
        kernels = {op.get("kernel") for unit in plan["units"] for op in unit.get("ops", ())}
        data = (bundle / PLAN).read_bytes() + (bundle / WEIGHTS).read_bytes()
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise CgateError(
            f"{bundle} is no bundle: {error}", "export the checkpoint again"
        ) from error
    return sha256(data), units, not NEEDS_CMSIS_NN.isdisjoint(kernels)


def build(
    bundle: Path,
    target: Target | None,
    *,
    on: str = "qemu",
    io: str = "semihosting",
    app: str = "stream",
    cmsis_nn: Path | None = None,
    progress: Progress | None = None,
) -> Build:
    """Compile and link; does nothing if nothing has changed since the last time.

    The program lies in build/<target>/, build/<target>-uart/ or build/host/ of the bundle. The
    same inputs give the same bytes, wherever the bundle lies.

    Args:
        bundle: folder that `cgate export` wrote.
        target: what to build for; not used on the host.
        on: "qemu" (also right for the real board) or "host".
        io: "semihosting" or "uart"; not used on the host.
        app: a key of APPS; all but "stream" need "uart" on a target.
        cmsis_nn: a copy of Arm's library, for a bundle whose kernels are in it; None for
            $CGATE_CMSIS_NN. The host takes `ref` in its place.

    Raises:
        CgateError: no bundle; energy mode without a power pin; a compiler or a library that the
            bundle needs is missing (3); the program does not fit the target (1).
    """
    progress = progress or Silent()
    bundle = bundle.resolve()
    if on not in ("qemu", "host") or io not in ("semihosting", "uart"):
        raise CgateError(f"cannot build for {on!r} with {io!r}")
    if on == "host":
        target, io = None, "pipe"
    elif target is None:
        raise CgateError("a target is needed to build for QEMU", "add --target cortex-m4")
    elif app != "stream" and io != "uart":
        raise CgateError(f"{app} talks over a UART", "add --io uart")
    elif app == "mlperf-energy" and target.board is None:
        raise CgateError(
            f"{target.name} has no pin that could mark a power window",
            "build for a board, such as --board nucleo-l4r5zi",
        )
    name = "host" if target is None else target.name + ("-uart" if io == "uart" else "")
    name += "" if app == "stream" else f"-{app}"
    plan_sha256, units, needs_library = _identity(bundle)
    library = find_cmsis_nn(cmsis_nn) if needs_library and target is not None else None
    recipe = _recipe(bundle, target, io, app, library)
    key = _key(recipe, bundle, plan_sha256)
    folder = bundle / "build" / name
    program = folder / ("program" if target is None else "program.elf")
    progress.start(f"build for {name}", 1)
    with _locked(bundle / "build" / f".{name}.lock"):
        if not _is_current(folder, program, key):
            _make(recipe, bundle, folder, program.name, target, key)
        sizes = read_json(folder / BUILD_JSON, "the build's record")
    progress.advance()
    return Build(
        folder,
        program,
        on,
        io,
        target,
        plan_sha256,
        units,
        sizes["flash"],
        sizes["ram"],
        sizes["stack"],
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time build into a folder; the others wait and then find it done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("wb")
    except OSError as error:
        raise CgateError(
            f"cannot write {path}: {error.strerror}", "choose a bundle in a folder you may write to"
        ) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _is_current(folder: Path, program: Path, key: str) -> bool:
    """Whether the program there is the one that would be built, and is undamaged."""
    try:
        record = read_json(folder / BUILD_JSON, "the build's record")
        content = program.read_bytes()
    except (CgateError, OSError):
        return False
    return (
        isinstance(record, dict)
        and record.get("key") == key
        and record.get("program_sha256") == sha256(content)
    )


def _make(
    recipe: _Recipe, bundle: Path, folder: Path, name: str, target: Target | None, key: str
) -> None:
    """Build aside and put the result in place only when all of it succeeded."""
    with replaced_folder(folder, BUILD_JSON) as new:
        objects_folder = new / "objects"
        objects_folder.mkdir()
        objects = _compile(recipe, bundle, objects_folder)
        _link(recipe, objects, new / name, target)
        flash = ram = stack = None
        if target is not None:
            sizes = _sections([new / name])
            flash = sizes[".text"] + sizes[".code"] + sizes[".data"]
            ram = sizes[".stack"] + sizes[".data"] + sizes[".bss"]
            graph = read_call_graph(objects_folder.glob("*.ci"))
            stack = stack_bound(graph, "cg_reset")
            if any(source.name == "cg_time.c" for source in recipe.sources):
                # The one interrupt that is ever enabled may come at the deepest point.
                stack += EXCEPTION_FRAME + stack_bound(graph, "cg_systick")
            if stack > STACK_SIZE:
                raise CgateError(
                    f"the program may need {stack} bytes of stack, {STACK_SIZE} are reserved",
                    "",
                    EXIT_CHECK_FAILED,
                )
        shutil.rmtree(objects_folder)
        write_json(
            new / BUILD_JSON,
            {
                "schema": SCHEMA,
                "key": key,
                "target": None if target is None else target.name,
                "compiler": recipe.compiler_version,
                "program_sha256": sha256((new / name).read_bytes()),
                "flash": flash,
                "ram": ram,
                "stack": stack,
            },
        )

"""`cgate`: one command line, one place where errors become text and exit codes.

Commands live in `commands/`, one module each, and are imported only when they are called:
`cgate --help` loads neither torch nor a TFLite runtime.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from cgate.core.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TOOL_MISSING, EXIT_USAGE, CgateError
from cgate.core.files import json_text
from cgate.core.progress import Progress, Silent
from cgate.core.version import __version__
from cgate.host_tools.console import ConsoleProgress, print_error, wants_bar

JSON_SCHEMA = 1
EXIT_INTERNAL = 70  # a defect of cgate itself, as EX_SOFTWARE in sysexits.h

COMMANDS = {
    "train": "Train a gated network; resumes where it stopped.",
    "sweep": "Search over recipes and seeds; the same command elsewhere joins in.",
    "freeze": "Fix each gate of a checkpoint at its more frequent decision.",
    "margins": "Choose anew how sure the exits of a checkpoint must be.",
    "qat": "Fine-tune a checkpoint on the integers that it exports to.",
    "calibrate": "Measure a checkpoint's activation ranges again.",
    "data": "List, download and check data sets.",
    "export": "Turn a checkpoint into an int8 bundle: plan, C and TFLite units.",
    "inspect": "Show a bundle's plan as a table, and draw the network.",
    "build": "Compile a bundle for its target or for this machine.",
    "flash": "Write a bundle's program into a board.",
    "power": "Measure the energy of an inference with a power meter.",
    "run": "Run test images through the built firmware and record a trace.",
    "verify": "Compare the parts of a bundle bit for bit.",
    "fidelity": "Say what int8 changes against the float network.",
    "measure": "Measure latency, energy and the worst case of an inference.",
    "compare": "Set bundles side by side: accuracy, cost, and whether gating pays.",
    "report": "Write a self-contained HTML report of a bundle's runs.",
    "demo": "Do all of it: train, export, build, run, verify, report.",
    "targets": "List the boards and emulated machines.",
    "bench": "Measure kernels and networks, and what gates are worth.",
    "doctor": "Check the tools and packages that cgate needs.",
}

# Packages that live in an extra, by the module whose import fails without them.
EXTRAS = {"torch": "train", "optuna": "train", "sklearn": "demo", "tflite_runtime": "golden"}
EXTRAS |= {
    "serial": "power",
    "joulescope": "power",
    "ppk2_api": "power",
    "otii_tcp_client": "power",
}

EPILOG = """\b
Examples:
  cgate demo
  cgate train --recipe demo --out runs/digits
  cgate export runs/digits --target cortex-m4 --out runs/bundle
  cgate run runs/bundle
\b
Exit codes:
    0  done
    1  a check failed: bits differ, the model does not fit the target
    2  bad usage or bad input
    3  a tool is missing; `cgate doctor` lists all
    4  the target failed: crash, timeout, garbage
   70  a defect of cgate itself
  130  interrupted with Ctrl-C
"""


def version() -> str:
    """Version of the code that is running."""
    return __version__


@dataclass(frozen=True)
class Outcome:
    """What a command found, for programs and for people.

    Args:
        data: the `data` object of `--json`.
        lines: the same for people; printed to stdout without `--json`.
        code: exit code, for a check that ended without an error but was not passed.
        error: why `code` is not 0.
    """

    data: dict[str, Any]
    lines: Sequence[str]
    code: int = EXIT_OK
    error: CgateError | None = None


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _common_options() -> list[click.Option]:
    """Options that every command and the group itself take, before or after the command's name."""

    def remember(context: click.Context, option: click.Parameter, value: bool) -> None:
        if value:
            context.meta[f"cgate.{option.name}"] = True

    def flag(*names: str, help: str) -> click.Option:
        return click.Option(
            [*names], is_flag=True, expose_value=False, callback=remember, help=help
        )

    return [
        flag("--json", help="Print one JSON object instead of text."),
        flag("--quiet", "-q", help="Show results and errors only."),
        flag("--no-progress", "no_progress", help="Show no progress bars."),
        flag("--debug", help="Show the traceback of an error."),
    ]


class Command(click.Command):
    """A click command with the options that all commands share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_common_options())


class Group(click.Group):
    """A group that has the common options and names the nearest command for an unknown one."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.no_args_is_help = False  # "Missing command" is an error like any other
        self.params.extend(_common_options())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with a suggestion."""
        names = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in names:
            near = difflib.get_close_matches(args[0], names, 1, 0.5)
            raise CgateError(
                f"unknown command {args[0]!r}; known are {', '.join(names)}",
                f"{ctx.command_path} {near[0]}" if near else f"{ctx.command_path} --help",
            )
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """The commands of COMMANDS; each module is imported when its command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the workflow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"cgate.host_tools.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, epilog=EPILOG)
@click.version_option(version(), prog_name="cgate")
def cgate() -> None:
    """Conditional neural networks on Cortex-M: a skipped block is a branch not taken."""


def progress() -> Progress:
    """The progress display of the running command, as its options and the terminal ask for."""
    context = click.get_current_context()
    options = context.meta
    if options.get("cgate.json") or options.get("cgate.quiet"):
        return Silent()
    if "cgate.display" not in options:
        display = ConsoleProgress(wants_bar() and not options.get("cgate.no_progress"))
        options["cgate.display"] = display
        context.find_root().call_on_close(display.close)
    shown: Progress = options["cgate.display"]
    return shown


def _command_name(arguments: Sequence[str]) -> str | None:
    """The command that `arguments` ask for, also if they cannot be parsed."""
    words = [word for word in arguments if not word.startswith("-")]
    if not words or words[0] not in COMMANDS:
        return None
    return " ".join(words[:2]) if words[0] in ("bench", "data") else words[0]


def _as_user_error(error: BaseException) -> CgateError:
    """Any exception as the error to show."""
    match error:
        case CgateError():
            return error
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "cgate"
            return CgateError(error.format_message(), f"{where} --help", EXIT_USAGE)
        case click.ClickException():
            return CgateError(error.format_message())
        case KeyboardInterrupt() | click.Abort():
            return CgateError("interrupted", "", EXIT_INTERRUPTED)
        case ModuleNotFoundError() if (error.name or "").split(".")[0] in EXTRAS:
            package = (error.name or "").split(".")[0]
            return CgateError(
                f"this needs the Python package {package}, which is not installed",
                f'pip install "cgate[{EXTRAS[package]}]"; `cgate doctor` lists all that is missing',
                EXIT_TOOL_MISSING,
            )
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            return CgateError(f"{place}{error.strerror or error}")
    return CgateError(
        f"internal error: {type(error).__name__}: {error}",
        "the same command with --debug, and report what it prints",
        EXIT_INTERNAL,
    )


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Being terminated, or losing the terminal, ends a command as Ctrl-C does.

    By default Python would end at once and leave emulators running and temporary files behind.
    A signal that is ignored (nohup) stays ignored.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    changed = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in changed:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _perform(arguments: Sequence[str]) -> tuple[int, dict[str, Any] | None, Sequence[str], Any]:
    """Run a command: exit code, JSON data, lines, and the exception or None."""
    try:
        with _ended_like_ctrl_c():
            result = cgate.main(list(arguments), prog_name="cgate", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        return _as_user_error(error).code, None, (), error
    if isinstance(result, Outcome):
        return result.code, result.data, result.lines, result.error
    # --help and --version have printed what they had to say; click hands their exit code over.
    return int(result or 0), None, (), None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `cgate` with these arguments (default: the process's) and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    # Looked for by hand: an error in the arguments themselves has to come as JSON, too.
    as_json = "--json" in words
    code, data, lines, error = _perform(words)
    shown = None if error is None else _as_user_error(error)
    if error is not None and "--debug" in words:
        traceback.print_exception(error)
    try:
        if as_json and (data is not None or shown is not None):
            value = {
                "schema": JSON_SCHEMA,
                "cgate": version(),
                "command": _command_name(words),
                "status": code,
                "data": data,
                "errors": [{"message": shown.message, "hint": shown.hint}] if shown else [],
            }
            sys.stdout.write(json_text(value))
        else:
            sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone. Python would flush, and fail, once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as failure:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print_error(f"cannot write the result: {failure.strerror}", "")
        code = code or EXIT_USAGE
    if shown is not None and not as_json:
        print_error(shown.message, shown.hint)
    return code

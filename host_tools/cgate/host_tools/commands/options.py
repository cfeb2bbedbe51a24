"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cgate.core.targets import Target, find_target, parse_size

if TYPE_CHECKING:
    from cgate.train.recipes import Recipe

F = TypeVar("F", bound=Callable[..., Any])

APPS = ("stream", "mlperf", "mlperf-energy")
FOLDER = click.Path(path_type=Path)


def _target(context: click.Context, option: click.Parameter, value: str | None) -> Target | None:
    return None if value is None else find_target(value)


def target_option(help: str, default: str | None = None) -> Callable[[F], F]:
    """`--target`; hands a `Target` (or None) to the command."""
    return click.option(
        "--target", "-t", "--board", "target", metavar="NAME", callback=_target, default=default,
        show_default=default is not None, help=help,
    )  # fmt: skip


class Size(click.ParamType):  # type: ignore[type-arg]
    """A memory size such as 512K, in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        try:
            return value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def limit_options(function: F) -> F:
    """`--flash` and `--ram`: what a program may take of the target's memories."""
    for name, what in (("--ram", "RAM, with stack and buffers,"), ("--flash", "flash")):
        function = click.option(
            name, type=Size(), metavar="SIZE",
            help=f"Most {what} that the program may take, such as 512K. Default: all there is.",
        )(function)  # fmt: skip
    return function


def within(name: str, size: int | None, there_is: int) -> int:
    """The size that was asked for, or all there is.

    Raises:
        click.UsageError: more was asked for than there is.
    """
    if size is not None and size > there_is:
        raise click.UsageError(f"--{name} {size} is more than the target has ({there_is} bytes)")
    return there_is if size is None else size


def data_options(function: F) -> F:
    """`--data`, `--data-dir`, `--split` and `--images`: which images to use."""
    for decorate in (
        click.option("--images", "chosen", type=FOLDER, metavar="FILE",
                     help="Numbers of the images to take, as text or .npy. Default: all."),
        click.option("--split", type=click.Choice(["train", "validation", "test"]),
                     default="test", show_default=True, help="Part of the data set."),
        data_dir_option,
        click.option("--data", metavar="NAME",
                     help="Data set. Default: the one that has the network's input and classes."),
    ):  # fmt: skip
        function = decorate(function)
    return function


def recipe_options(function: F) -> F:
    """Options that change a recipe; `changed` takes them."""
    for decorate in (
        click.option("--seed", type=click.IntRange(0, (1 << 32) - 1), metavar="N",
                     help="Of the initial weights and of all that is drawn."),
        click.option("--width", type=click.FloatRange(0, 8, min_open=True), metavar="FACTOR",
                     help="Times the channels of the published network."),
        click.option("--network", "model", metavar="NAME", help="Instead of the recipe's."),
        click.option("--data", metavar="NAME", help="Instead of the recipe's."),
        click.option("--ablation", metavar="NAME",
                     help="Take one thing away, such as no-cir; an unknown name lists all."),
        click.option("--teach", type=click.FloatRange(0, 1), metavar="SHARE",
                     help="Of the loss that imitates the teacher; the labels have the rest."),
        click.option("--teacher", metavar="CHECKPOINT",
                     help="Checkpoint whose answers the network learns to imitate."),
        click.option("--from", "start", metavar="CHECKPOINT",
                     help="Start from these weights; of a wider network, its strongest filters."),
        click.option("--cost", metavar="macs|TARGET",
                     help="What the penalty counts: MACs, or cycles of this target's cost table."),
        click.option("--tau", type=click.FloatRange(0, 1, min_open=True), metavar="SHARE",
                     help="Of the dense network's cost, which costs nothing; the recipe's else."),
        click.option("--dtype", metavar="auto|float32|bfloat16",
                     help="Of convolutions in training; auto is what this machine is fast at."),
        click.option("--lr", type=click.FloatRange(0, min_open=True), metavar="RATE",
                     help="Peak learning rate, instead of the recipe's."),
        click.option("--gate", metavar="KIND",
                     help="Kind of gate, or none, for the recipe's; an unknown name lists all."),
    ):  # fmt: skip
        function = decorate(function)
    return function


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with what the options of `recipe_options` gave."""
    given = {key: value for key, value in changes.items() if value is not None}
    gate, ablation = given.pop("gate", None), given.pop("ablation", None)
    recipe = replace(recipe, **given)
    recipe = recipe if gate is None else recipe.with_gate(gate)
    return recipe if ablation is None else recipe.ablated(ablation)


def data_dir_option(function: F) -> F:
    """`--data-dir`."""
    return click.option(
        "--data-dir", type=FOLDER, metavar="FOLDER",
        help="Where data sets are. Default: $CGATE_DATA_DIR, then the user's cache.",
    )(function)  # fmt: skip


def io_option(function: F) -> F:
    """`--io`."""
    return click.option(
        "--io", type=click.Choice(["semihosting", "uart"]), default="semihosting",
        show_default=True, help="How the image talks to this machine.",
    )(function)  # fmt: skip


def app_option(function: F) -> F:
    """`--app`."""
    return click.option(
        "--app", type=click.Choice(APPS), default="stream", show_default=True,
        help="What the program speaks: cgate's frames, or the protocol of MLPerf Tiny's runner, "
        "with a clock (mlperf) or with edges on the power pin (mlperf-energy).",
    )(function)  # fmt: skip


def jobs_option(function: F) -> F:
    """`--jobs`."""
    return click.option(
        "--jobs", "-j", type=click.IntRange(1, 256), metavar="N",
        help="Processes side by side. Default: one per core of this machine.",
    )(function)  # fmt: skip


def on_option(function: F) -> F:
    """`--on`."""
    return click.option(
        "--on", type=click.Choice(["qemu", "host"]), default="qemu", show_default=True,
        help="The emulated target, or this machine.",
    )(function)  # fmt: skip


def cmsis_nn_option(help: str) -> Callable[[F], F]:
    """`--cmsis-nn`."""
    return click.option(
        "--cmsis-nn", type=FOLDER, metavar="FOLDER", help=f"{help} Default: $CGATE_CMSIS_NN."
    )


library_option = cmsis_nn_option(
    "A copy of Arm's CMSIS-NN (>= 7.0.0), for a bundle exported with --kernels cmsis-nn."
)
"""`--cmsis-nn` of what compiles bundles."""


def limit_option(function: F) -> F:
    """`--limit`."""
    return click.option(
        "--limit", type=click.IntRange(1), metavar="N", help="The first N images only."
    )(function)

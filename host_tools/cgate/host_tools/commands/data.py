"""`cgate data`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from cgate.core.data import DATASETS, SOURCES, check_data, find_data, list_data
from cgate.core.download import download
from cgate.host_tools.cli import Group, Outcome, examples, progress
from cgate.host_tools.commands.options import data_dir_option
from cgate.host_tools.console import table


@click.group(
    cls=Group, name="data", epilog=examples("cgate data list", "cgate data download cifar10")
)
def command() -> None:
    """List, download and check data sets."""


@command.command("list", epilog=examples("cgate data list", "cgate data list --data-dir FOLDER"))
@data_dir_option
def list_command(data_dir: Path | None) -> Outcome:
    """Show which data sets can be used, and where they are."""
    found = list_data(data_dir)
    rows = [
        [item.name, "yes" if item.present else "no", str(item.folder or ""), item.note]
        for item in found
    ]
    value = [
        {**asdict(item), "folder": str(item.folder) if item.folder else None} for item in found
    ]
    return Outcome({"data_sets": value}, table(["name", "present", "folder", "note"], rows))


@command.command("check", epilog=examples("cgate data check cifar10"))
@click.argument("name", type=click.Choice(DATASETS))
@data_dir_option
def check_command(name: str, data_dir: Path | None) -> Outcome:
    """Compare the files of data set NAME with the official MD5 sums."""
    folder = find_data(name, data_dir)
    check_data(name, folder)
    return Outcome(
        {"name": name, "folder": str(folder), "files": list(SOURCES[name].files)},
        [f"{name}: {len(SOURCES[name].files)} files in {folder}, all as published"],
    )


@command.command(
    "download",
    epilog=examples("cgate data download cifar10", "cgate data download cifar100 --data-dir data"),
)
@click.argument("name", type=click.Choice(DATASETS))
@data_dir_option
def download_command(name: str, data_dir: Path | None) -> Outcome:
    """Download data set NAME from its official source; resumes where it stopped.

    It goes to --data-dir, or to the user's cache.
    """
    folder = download(name, data_dir, progress())
    return Outcome({"name": name, "folder": str(folder)}, [str(folder)])

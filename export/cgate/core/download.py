"""Fetching the official files of a data set, each checked by its md5 before it is kept."""

from __future__ import annotations

import hashlib
import http
import http.client
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from cgate.core.data import Source, cache_folder, find_source, read_checked
from cgate.core.errors import CgateError
from cgate.core.files import replaced_folder, write_bytes
from cgate.core.progress import Progress

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0


def _get(url: str, part: Path, progress: Progress) -> None:
    """Fetch `url` into `part`, going on where an earlier attempt stopped."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
        resumed = reply.status == http.HTTPStatus.PARTIAL_CONTENT
        if not resumed:
            have = 0  # the server ignored the range and sends everything
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length else 0
        progress.start(f"download {url.rsplit('/', 1)[-1]}", total)
        progress.advance(have)
        with part.open("ab" if resumed else "wb") as stream:
            while chunk := reply.read(_CHUNK):
                stream.write(chunk)
                have += len(chunk)
                progress.advance(len(chunk))
    if have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _file_md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(name: str, url: str, part: Path, progress: Progress) -> None:
    """`_get`, with its failures as errors for the user."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            _get(url, part, progress)
        except urllib.error.HTTPError as error:
            # 416: the part is already as long as the file, so it may be complete.
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
    # HTTPException covers malformed replies; all network errors are OSError.
    except (OSError, http.client.HTTPException) as error:
        raise CgateError(
            f"cannot download {url} to {part.parent}: {error}",
            f"run `cgate data download {name}` again to go on where it stopped, or unpack "
            f"the archive into {part.parent} yourself",
        ) from error


def _fetch_files(source: Source, target: Path, progress: Progress) -> None:
    """Download the files of `source` one by one; those that are there and intact are kept."""
    for file in source.files:
        if source.path(target, file) is not None:
            try:
                read_checked(source, target, file)
                continue
            except CgateError as error:
                progress.message(f"{error.message}; downloading again")
        name = file + source.suffix
        part = target / f"{name}.part"
        _download(source.name, source.url + name, part, progress)
        part.replace(target / name)
        try:
            read_checked(source, target, file)
        except CgateError as error:
            (target / name).unlink()
            raise CgateError(
                f"{source.url}{name} is not the official file; it was deleted: {error.message}",
                f"run `cgate data download {source.name}` again",
            ) from error


def fetch(source: Source, folder: Path, progress: Progress) -> Path:
    """Download and unpack an archive, or its files one by one.

    A stopped download goes on where it stopped.

    Only the files that `source` names are taken from the archive, each after a check of its md5,
    so nothing in an archive decides what is written where.

    Args:
        folder: the data folder; the files go to `folder / source.folder`.
        progress: told of each chunk, in bytes.

    Returns:
        The folder with the files.

    Raises:
        CgateError: no network, no space, or the archive is not the official one.
    """
    target = folder / source.folder
    if target.is_dir():
        try:
            for file in source.files:
                read_checked(source, target, file)
            progress.message(f"{source.name} is in {target} already")
            return target
        except CgateError as error:
            if source.md5:
                progress.message(f"{error.message}; downloading again")
    if not source.md5:
        _fetch_files(source, target, progress)
        return target
    archive = folder / source.url.rsplit("/", 1)[-1]
    part = archive.with_name(archive.name + ".part")
    _download(source.name, source.url, part, progress)
    found = _file_md5(part)
    if found != source.md5:
        part.unlink()
        raise CgateError(
            f"{source.url} is not the official archive: its md5 is {found}, "
            f"expected {source.md5}; it was deleted",
            f"run `cgate data download {source.name}` again",
        )
    # Any official file tells that the folder is the data set's, also if others are missing.
    marker = next((file for file in source.files if (target / file).is_file()), "")
    with (
        tarfile.open(part) as tar,
        replaced_folder(target, marker=marker) as aside,
    ):
        progress.start(f"unpack {archive.name}", len(source.files))
        for file in source.files:
            member = tar.extractfile(f"{source.folder}/{file}")
            if member is None:
                raise CgateError(f"{archive.name}: {file} is no file")
            write_bytes(aside / file, member.read())
            read_checked(source, aside, file)
            progress.advance()
    part.unlink()
    return target


def download(name: str, folder: Path | None, progress: Progress) -> Path:
    """Fetch the official archive of `name` into `folder` (default: the user's cache).

    Returns and raises as `fetch` does; data that needs no files is an error as well.
    """
    return fetch(find_source(name), folder or cache_folder(), progress)

"""Writing files so that a crash, a full disk or Ctrl-C never leaves half a file behind."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cgate.core.errors import CgateError


def write_error(path: Path, error: OSError) -> CgateError:
    """What to tell the user when `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CgateError(f"no space left to write {path}", "free some disk space and run again")
    return CgateError(
        f"cannot write {path}: {error.strerror or error}", "choose a folder you may write to"
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a temporary file and a rename; creates parent folders.

    Raises:
        CgateError: the folder cannot be written or the disk is full; `path` is then unchanged.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; give them the mode that open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Like `write_bytes`, for UTF-8 text."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """`value` as stable, readable JSON: two-space indent, keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Like `write_bytes`, for a JSON value."""
    write_text(path, json_text(value))


def read_json(path: Path, what: str, hint: str = "") -> Any:
    """Parse the JSON file `path`; `what` names it in the error ("the checkpoint's card").

    Args:
        hint: what to do if there is no such file.

    Raises:
        CgateError: the file is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CgateError(f"{what} is missing: {path} does not exist", hint) from error
    except OSError as error:
        raise CgateError(f"{what} cannot be read: {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CgateError(f"{what} is no valid JSON: {path}: {error}") from error


def sha256(data: bytes) -> str:
    """SHA-256 of `data` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def replaced_folder(path: Path, marker: str) -> Iterator[Path]:
    """Build a folder aside and put it in the place of `path` only when the block succeeds.

    Args:
        path: the folder to write. It may exist if it is empty or holds `marker`, the file that
            tells a folder written by this tool from somebody's own work.
        marker: name of that file.

    Yields:
        An empty folder beside `path` to write into.

    Raises:
        CgateError: `path` holds foreign files, or cannot be written.
    """
    # A link stays a link: what it points at is replaced.
    path = path.resolve()
    if path == Path.cwd():
        raise CgateError(
            f"{path} is the current folder, which cannot be replaced", "choose another --out"
        )
    if path.exists() and not path.is_dir():
        raise CgateError(f"{path} is a file, not a folder", "choose another --out")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise CgateError(
            f"{path} is not empty and was not written by cgate (it has no {marker})",
            "choose another --out, or empty that folder",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        temporary.chmod(0o755)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield temporary
        if path.exists():
            # rename() cannot replace a folder that is not empty: move the old one aside first.
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            try:
                path.replace(old)
                temporary.replace(path)
            except BaseException:
                # Also for Ctrl-C between the two: the old folder goes back to its place.
                if not path.exists():
                    old.replace(path)
                raise
            finally:
                if path.exists():
                    shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

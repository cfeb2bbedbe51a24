"""Writing files: all or nothing, whatever goes wrong in between."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.core.errors import CgateError
from cgate.core.files import json_text, read_json, replaced_folder, sha256, write_bytes, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_makes_parents_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two" and names(path.parent) == ["file.bin"]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "no space"), (errno.EIO, "cannot write")]
)
def test_failure_keeps_the_old_file(
    number: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CgateError, match=text):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CgateError, match="cannot write"):
        write_bytes(tmp_path / "file" / "child", b"")


@given(JSON)
def test_json_text_reads_back(value: Any) -> None:
    import json

    text = json_text(value)
    assert json.loads(text) == value and text.endswith("\n")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "file", float("nan"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_bad_json_names_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(CgateError, match=r"the card is no valid JSON: .*card\.json"):
        read_json(path, "the card")


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="the card is missing"):
        read_json(tmp_path / "none", "the card")
    with pytest.raises(CgateError, match="cannot be read"):
        read_json(tmp_path, "the card")


def test_sha256_of_the_standard() -> None:
    # FIPS 180-2, appendix B.1.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc") == digest


def test_folder_appears_only_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replaced_folder(out, "marker") as folder:
        write_bytes(folder / "marker", b"1")
        assert not out.exists()
    assert names(out) == ["marker"] and names(tmp_path) == ["out"]
    with replaced_folder(out, "marker") as folder:
        write_bytes(folder / "marker", b"2")
        write_bytes(folder / "more", b"")
        assert (out / "marker").read_bytes() == b"1"
    assert names(out) == ["marker", "more"] and names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [CgateError("bad"), KeyboardInterrupt(), ValueError("x")])
def test_failure_keeps_the_old_folder(error: BaseException, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replaced_folder(out, "marker") as folder:
        write_bytes(folder / "marker", b"old")
    with pytest.raises(type(error)), replaced_folder(out, "marker") as folder:
        write_bytes(folder / "marker", b"new")
        raise error
    assert (out / "marker").read_bytes() == b"old" and names(tmp_path) == ["out"]


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with (
        pytest.raises(CgateError, match="not empty and was not written by cgate"),
        replaced_folder(tmp_path, "marker"),
    ):
        pass
    assert names(tmp_path) == ["thesis.txt"]
    with (
        pytest.raises(CgateError, match="is a file"),
        replaced_folder(tmp_path / "thesis.txt", "marker"),
    ):
        pass


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for content in (b"1", b"2"):
        with replaced_folder(tmp_path / "link", "marker") as folder:
            write_bytes(folder / "marker", content)
        assert (tmp_path / "real" / "marker").read_bytes() == content
    assert names(tmp_path) == ["link", "real"] and (tmp_path / "link").is_symlink()


def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CgateError, match="is the current folder"), replaced_folder(Path(), "m"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_failure_between_the_two_renames_keeps_the_old_folder(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with replaced_folder(out, "marker") as folder:
        write_bytes(folder / "marker", b"old")
    rename = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target == out and (self / "new").exists():
            raise error
        return rename(self, target)

    with (
        pytest.raises((CgateError, KeyboardInterrupt)),
        replaced_folder(out, "marker") as folder,
    ):
        write_bytes(folder / "new", b"")
        monkeypatch.setattr(Path, "replace", fail)
    assert names(out) == ["marker"] and names(tmp_path) == ["out"]

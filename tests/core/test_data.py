import gzip
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgate.core import data
from cgate.core.data import (
    DATASETS,
    SOURCES,
    Source,
    check_data,
    find_data,
    list_data,
    load_dataset,
    read_idx,
    stratified_order,
)
from cgate.core.download import download, fetch
from cgate.core.errors import EXIT_TOOL_MISSING, CgateError
from cgate.core.progress import Silent

TRAINING_IMAGES = data.VALIDATION_IMAGES + 20


@pytest.fixture(autouse=True)
def empty_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but what a test puts somewhere; the value is the cache folder."""
    monkeypatch.delenv("CGATE_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cgate"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def small_files(images: int = 4) -> dict[str, bytes]:
    """Files in the layout of CIFAR-100, with few images."""
    random = np.random.default_rng(0)

    def batch(count: int) -> bytes:
        return pickle.dumps(
            {
                b"data": random.integers(0, 256, (count, 3072), np.uint8),
                b"fine_labels": random.integers(0, 100, count).tolist(),
            },
            protocol=4,
        )

    names = [b"class %d" % n for n in range(100)]
    meta = pickle.dumps({b"fine_label_names": names}, protocol=4)
    return {"train": batch(images), "test": batch(3), "meta": meta}


def source_of(files: dict[str, bytes], url: str = "http://127.0.0.1:9/x.tar.gz") -> Source:
    return Source(
        "cifar100",
        url,
        md5(archive_of(files)),
        "cifar-100-python",
        {name: md5(content) for name, content in files.items()},
    )


class Server(http.server.ThreadingHTTPServer):
    """Serves one archive, with ranges; `cut` ends each reply after so many bytes."""

    content = b""
    cut: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/cifar-100-python.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and self.server.ranges:
            if start >= len(self.server.content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            start = 0
            self.send_response(200)
        body = self.server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_digits_match_the_specification_and_are_the_original_images() -> None:
    sklearn = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")
    digits = load_dataset("digits")
    splits = [digits.split(name) for name in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [1197, 200, 400]
    assert digits.input_shape == (8, 8, 1)
    assert digits.classes == tuple("0123456789")
    raw = sklearn.load_digits()
    expected = sorted(
        (int(label), tuple(int(15 * value) for value in image.flat))
        for label, image in zip(raw.target, raw.images, strict=True)
    )
    found = sorted(
        (int(label), tuple(map(int, image.flat)))
        for split in splits
        for label, image in zip(split.labels, split.images, strict=True)
    )
    assert found == expected
    for split in splits:
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int64
        shares = np.bincount(split.labels) / len(split)
        np.testing.assert_allclose(shares, np.bincount(raw.target) / 1797, atol=0.011)
    pixels = splits[0].images
    assert digits.input_zero == round(pixels.mean()) and digits.input_divisor == round(pixels.std())


def test_digits_are_the_same_each_time() -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    first, second = load_dataset("digits"), load_dataset("digits")
    assert first.md5 == second.md5
    np.testing.assert_array_equal(first.test.images, second.test.images)


def test_digits_without_scikit_learn_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(CgateError) as caught:
        load_dataset("digits")
    assert caught.value.code == EXIT_TOOL_MISSING
    assert "pip install" in caught.value.hint


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 100), st.data())
@settings(max_examples=100, deadline=None)
def test_runs_of_a_stratified_order_hold_each_class_in_proportion(
    labels: list[int], seed: int, drawn: st.DataObject
) -> None:
    array = np.array(labels, np.int64)
    order = stratified_order(array, seed)
    assert sorted(order) == list(range(len(array)))
    start = drawn.draw(st.integers(0, len(array)))
    stop = drawn.draw(st.integers(start, len(array)))
    for label in set(labels):
        share = np.mean(array == label)
        assert abs(np.sum(array[order[start:stop]] == label) - share * (stop - start)) <= 5


def test_places_are_searched_in_order(
    tmp_path: Path, empty_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_dir, from_environment = tmp_path / "given", tmp_path / "environment"
    monkeypatch.setenv("CGATE_DATA_DIR", str(from_environment))
    for place in (empty_places, from_environment, given_dir):
        folder = place / "cifar-100-python"
        folder.mkdir(parents=True)
        for name in SOURCES["cifar100"].files:
            (folder / name).touch()
        assert find_data("cifar100", given_dir) == folder


def test_a_missing_data_set_names_every_place(
    tmp_path: Path, empty_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGATE_DATA_DIR", str(tmp_path / "environment"))
    with pytest.raises(CgateError) as caught:
        find_data("cifar10", tmp_path / "given")
    for place in (tmp_path / "given", tmp_path / "environment", empty_places):
        assert str(place / "cifar-10-batches-py") in caught.value.message
    assert "cgate data download cifar10" in caught.value.hint


def test_an_incomplete_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").touch()
    with pytest.raises(CgateError, match="was not found"):
        find_data("cifar100", tmp_path)


def test_unknown_data_sets_and_splits_are_named() -> None:
    with pytest.raises(CgateError, match=r"'imagenet'.*digits, cifar10, cifar100, mnist"):
        load_dataset("imagenet")
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    with pytest.raises(CgateError, match=r"'dev'.*train, validation, test"):
        load_dataset("digits").split("dev")


def test_the_list_has_a_row_for_each_data_set(tmp_path: Path) -> None:
    rows = list_data(tmp_path)
    assert tuple(row.name for row in rows) == DATASETS
    assert not rows[1].present and "cgate data download cifar10" in rows[1].note


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_layout_planes_and_splits_of_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_files(TRAINING_IMAGES)
    monkeypatch.setitem(SOURCES, "cifar100", source_of(files))
    write_files(tmp_path / "cifar-100-python", files)
    dataset = load_dataset("cifar100", tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (20, 5000, 3)
    assert dataset.classes[7] == "class 7"
    raw = pickle.loads(files["train"])
    # Official rows are 1,024 red, 1,024 green, then 1,024 blue values, each row by row.
    for split, row, image in ((dataset.train, 3, 3), (dataset.validation, 25, 5)):
        assert split.labels[image] == raw[b"fine_labels"][row]
        for y, x, channel in ((0, 0, 0), (5, 31, 1), (31, 7, 2)):
            value = raw[b"data"][row][1024 * channel + 32 * y + x]
            assert split.images[image, y, x, channel] == value


def test_a_corrupt_file_is_named_before_it_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    files = small_files()
    monkeypatch.setitem(SOURCES, "cifar100", source_of(files))
    folder = tmp_path / "cifar-100-python"
    write_files(folder, files)
    check_data("cifar100", folder)
    (folder / "test").write_bytes(pickle.dumps(Bomb()))
    for act in (lambda: check_data("cifar100", folder), lambda: load_dataset("cifar100", tmp_path)):
        with pytest.raises(CgateError, match=r"cifar-100-python/test is corrupt"):
            act()
    assert not (tmp_path / "exploded").exists()


def test_even_a_file_with_the_right_md5_can_call_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    files = small_files() | {"meta": pickle.dumps(Bomb())}
    monkeypatch.setitem(SOURCES, "cifar100", source_of(files))
    write_files(tmp_path / "cifar-100-python", files)
    with pytest.raises(CgateError, match=r"refused to load \w+\.mkdir"):
        load_dataset("cifar100", tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_download_unpacks_and_is_not_repeated(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = small_files()
    server.content = archive_of(files)
    monkeypatch.setitem(SOURCES, "cifar100", source_of(files, server.url))
    for _ in range(2):
        folder = download("cifar100", tmp_path, Silent())
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert server.asked == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-100-python"]


def test_a_stopped_download_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    files = small_files()
    server.content = archive_of(files)
    server.cut = 1000
    with pytest.raises(CgateError, match=r"after 1000 of \d+ bytes") as caught:
        fetch(source_of(files, server.url), tmp_path, Silent())
    assert "again" in caught.value.hint
    server.cut = None
    folder = fetch(source_of(files, server.url), tmp_path, Silent())
    assert server.asked == [None, "bytes=1000-"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_part_that_is_complete_is_used(tmp_path: Path, server: Server) -> None:
    files = small_files()
    server.content = archive_of(files)
    (tmp_path / "cifar-100-python.tar.gz.part").write_bytes(server.content)
    assert fetch(source_of(files, server.url), tmp_path, Silent()).is_dir()


def test_a_server_without_ranges_sends_everything_again(tmp_path: Path, server: Server) -> None:
    files = small_files()
    server.content = archive_of(files)
    server.ranges = False
    (tmp_path / "cifar-100-python.tar.gz.part").write_bytes(server.content[:100])
    assert fetch(source_of(files, server.url), tmp_path, Silent()).is_dir()


def test_a_foreign_archive_is_refused_and_deleted(tmp_path: Path, server: Server) -> None:
    files = small_files()
    source = source_of(files, server.url)
    server.content = archive_of(small_files() | {"test": b"foreign"})
    with pytest.raises(CgateError, match="not the official archive"):
        fetch(source, tmp_path, Silent())
    assert list(tmp_path.iterdir()) == []


def test_damaged_data_is_downloaded_again(tmp_path: Path, server: Server) -> None:
    files = small_files()
    server.content = archive_of(files)
    source = source_of(files, server.url)
    folder = fetch(source, tmp_path, Silent())
    (folder / "test").write_bytes(b"damaged")
    fetch(source, tmp_path, Silent())
    assert (folder / "test").read_bytes() == files["test"]


def test_an_incomplete_folder_is_completed(tmp_path: Path, server: Server) -> None:
    files = small_files()
    server.content = archive_of(files)
    source = source_of(files, server.url)
    folder = fetch(source, tmp_path, Silent())
    (folder / [*source.files][-1]).unlink()
    fetch(source, tmp_path, Silent())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_an_unreachable_server_is_a_clear_error(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_address[1]}/x.tar.gz"
    with pytest.raises(CgateError, match=f"cannot download {url}") as caught:
        fetch(source_of(small_files(), url), tmp_path, Silent())
    assert "unpack the archive" in caught.value.hint


def test_digits_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="comes with scikit-learn"):
        download("digits", tmp_path, Silent())


REAL = os.environ.get("CGATE_DATA_DIR")


@pytest.mark.skipif(
    REAL is None or not (Path(REAL) / "cifar-10-batches-py").is_dir(),
    reason="CIFAR-10 not in $CGATE_DATA_DIR: cgate data download cifar10",
)
def test_the_official_cifar10() -> None:
    assert REAL is not None
    dataset = load_dataset("cifar10", Path(REAL))
    assert [len(dataset.split(name)) for name in ("train", "validation", "test")] == [
        45000,
        5000,
        10000,
    ]
    assert dataset.classes[0] == "airplane" and dataset.classes[9] == "truck"
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [1000] * 10)
    pixels = dataset.train.images
    assert round(pixels.mean()) == dataset.input_zero
    assert round(pixels.std()) == dataset.input_divisor


def idx_of(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """By the description of the format: magic 0x00000800 + dimensions, sizes, values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(0, 99))
def test_idx_files_are_read_back(shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(read_idx(idx_of(array)), array)


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\x01\0\0\0\x01\0", b"\0\0\x08\x01\0\0\0\x05ab"])
def test_other_content_is_no_idx_file(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"idx|reshape|buffer"):
        read_idx(content)


def mnist_files() -> dict[str, bytes]:
    random = np.random.default_rng(1)
    contents = [
        random.integers(0, 256, (TRAINING_IMAGES, 28, 28), np.uint8),
        random.integers(0, 10, TRAINING_IMAGES, np.uint8),
        random.integers(0, 256, (3, 28, 28), np.uint8),
        random.integers(0, 10, 3, np.uint8),
    ]
    return dict(zip(SOURCES["mnist"].files, map(idx_of, contents), strict=True))


def separate(name: str, files: dict[str, bytes], url: str = "http://127.0.0.1:9/") -> Source:
    """The source `name`, published file by file at `url`, with other content."""
    sums = {file: md5(content) for file, content in files.items()}
    return replace(SOURCES[name], url=url, files=sums)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["mnist", "MNIST/raw"])
def test_mnist_is_read_packed_and_unpacked_from_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, place: str
) -> None:
    files = mnist_files()
    monkeypatch.setitem(SOURCES, "mnist", separate("mnist", files))
    stored = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    write_files(tmp_path / place, stored if packed else files)
    check_data("mnist", find_data("mnist", tmp_path))
    dataset = load_dataset("mnist", tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (20, 5000, 3)
    assert dataset.input_shape == (28, 28, 1) and dataset.classes == tuple("0123456789")
    images, labels, *_ = files.values()
    # Row-major images behind a header of 16 bytes, labels behind one of 8.
    assert dataset.validation.images[4, 27, 3, 0] == images[16 + 784 * 24 + 28 * 27 + 3]
    assert dataset.validation.labels[4] == labels[8 + 24]


def test_a_damaged_gz_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = mnist_files()
    monkeypatch.setitem(SOURCES, "mnist", separate("mnist", files))
    stored = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    write_files(tmp_path / "mnist", stored)
    broken = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    content = broken.read_bytes()
    for damaged in (content[:-9], b"no gzip", gzip.compress(b"other")):
        broken.write_bytes(damaged)
        with pytest.raises(CgateError, match=f"{broken}"):
            load_dataset("mnist", tmp_path)


def test_svhn_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy = pytest.importorskip("scipy.io", reason="pip install scipy")
    random = np.random.default_rng(2)
    files, raw = {}, {}
    for file, count in zip(SOURCES["svhn"].files, (TRAINING_IMAGES, 4), strict=True):
        raw[file] = {
            "X": random.integers(0, 256, (32, 32, 3, count), np.uint8),
            "y": random.integers(1, 11, (count, 1), np.uint8),
        }
        buffer = io.BytesIO()
        scipy.savemat(buffer, raw[file], do_compression=True)
        files[file] = buffer.getvalue()
    monkeypatch.setitem(SOURCES, "svhn", separate("svhn", files))
    write_files(tmp_path / "svhn", files)
    dataset = load_dataset("svhn", tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (20, 5000, 4)
    x, y = raw["test_32x32.mat"].values()
    for image in range(4):
        np.testing.assert_array_equal(dataset.test.images[image], x[:, :, :, image])
        assert dataset.test.labels[image] == y[image, 0] % 10


def test_separate_files_are_downloaded_checked_and_kept(tmp_path: Path, server: Server) -> None:
    files = {"a": b"first", "b": b"second"}
    url = server.url.removesuffix("cifar-100-python.tar.gz")
    server.content = gzip.compress(b"first")
    source = separate("mnist", files, url)
    # The second file is not the official one: the server sends the first again.
    with pytest.raises(CgateError, match=r"b\.gz is not the official file"):
        fetch(source, tmp_path, Silent())
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["a.gz"]
    asked = len(server.asked)
    server.content = gzip.compress(b"second")
    folder = fetch(source, tmp_path, Silent())
    assert len(server.asked) == asked + 1
    assert sorted(path.name for path in folder.iterdir()) == ["a.gz", "b.gz"]
    fetch(source, tmp_path, Silent())
    assert len(server.asked) == asked + 1


@pytest.mark.skipif(
    REAL is None or not (Path(REAL) / "mnist").is_dir(),
    reason="MNIST not in $CGATE_DATA_DIR: cgate data download mnist",
)
def test_the_official_mnist() -> None:
    assert REAL is not None
    dataset = load_dataset("mnist", Path(REAL))
    assert [len(dataset.split(name)) for name in ("train", "validation", "test")] == [
        55000,
        5000,
        10000,
    ]
    # As published by its authors: 980 zeros, 1,135 ones, ...
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), counts)
    pixels = dataset.train.images
    assert round(pixels.mean()) == dataset.input_zero
    assert round(pixels.std()) == dataset.input_divisor

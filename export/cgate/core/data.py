"""Data sets as uint8 arrays: where they lie, whether they are intact, how they are split.

Nothing here trains or normalises; SPEC.md, "Pixels", gives the splits. CIFAR-10 and CIFAR-100
are by Krizhevsky (2009), the digits by Alpaydin and Kaynak (UCI, 1998) as scikit-learn holds them,
MNIST by LeCun, Cortes and Burges (1998), SVHN (cropped digits, format 2) by Netzer et al. (2011).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import EXIT_TOOL_MISSING, CgateError

DATASETS = ("digits", "cifar10", "cifar100", "mnist", "svhn")

# (input_zero, input_divisor): the mean over all training pixels and channels, and the standard
# deviation, rounded to integers. One pair for all channels keeps the int8 input lossless.
DIGITS_INPUT = (73, 90)
CIFAR_INPUT = (121, 64)
MNIST_INPUT = (33, 79)
SVHN_INPUT = (115, 51)

VALIDATION_IMAGES = 5000
DIGITS_VALIDATION = 200
DIGITS_TEST = 400


@dataclass(frozen=True)
class Source:
    """Official files: those of one archive, or published one by one.

    Args:
        name: data set.
        url: of the archive, or without `md5` of the folder of the files.
        md5: of the archive; "" for files published one by one.
        folder: folder on disk, and inside the archive.
        files: file name -> md5. The last one tells a folder of this data set from others.
        suffix: of the published files; ".gz" may also be unpacked, md5 is that of the content.
        also: other folders in which people have these files.
    """

    name: str
    url: str
    md5: str
    folder: str
    files: Mapping[str, str]
    suffix: str = ""
    also: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What stands for the whole data set in a card: md5 of the archive, or of the md5s."""
        listed = " ".join(self.files.values()).encode()
        return self.md5 or hashlib.md5(listed, usedforsecurity=False).hexdigest()

    def path(self, folder: Path, file: str) -> Path | None:
        """Where `file` lies in `folder`, as published or unpacked; None if it does not."""
        for name in dict.fromkeys((file + self.suffix, file)):
            if (folder / name).is_file():
                return folder / name
        return None


SOURCES: dict[str, Source] = {
    "cifar10": Source(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
    "cifar100": Source(
        "cifar100",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
        {
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
    "mnist": Source(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "",
        "mnist",
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        ".gz",
        ("MNIST/raw",),
    ),
    "svhn": Source(
        "svhn",
        "http://ufldl.stanford.edu/housenumbers/",
        "",
        "svhn",
        {
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
    ),
}


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] and labels int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set in three splits.

    Args:
        classes: name of each label.
        md5: `Source.digest`; for the digits, of the pixels and labels.
        input_zero, input_divisor: a network sees (pixel - input_zero) / input_divisor.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    md5: str
    input_zero: int
    input_divisor: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def split(self, name: str) -> Split:
        """The split of this name: "train", "validation" or "test".

        Raises:
            CgateError: there is no such split.
        """
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in splits:
            raise CgateError(f"{self.name} has no split {name!r}; it has {', '.join(splits)}")
        return splits[name]


@dataclass(frozen=True)
class Found:
    """One line of `cgate data list`; `folder` is None for data that needs no files."""

    name: str
    present: bool
    folder: Path | None
    note: str


def _check_name(name: str) -> None:
    if name not in DATASETS:
        raise CgateError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")


def cache_folder() -> Path:
    """Where `cgate data download` puts data by default: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cgate"


def _places(data_dir: Path | None) -> list[Path]:
    places = [] if data_dir is None else [data_dir]
    if os.environ.get("CGATE_DATA_DIR"):
        places.append(Path(os.environ["CGATE_DATA_DIR"]))
    return [*places, cache_folder()]


def find_source(name: str) -> Source:
    """Where the official files of `name` are.

    Raises:
        CgateError: there is no such data set, or it needs no files.
    """
    _check_name(name)
    if name not in SOURCES:
        raise CgateError(f"{name} comes with scikit-learn and has no files of its own")
    return SOURCES[name]


def find_data(name: str, data_dir: Path | None = None) -> Path:
    """The folder that holds the official files of `name`, say .../cifar-10-batches-py.

    Looked at in this order: `data_dir`, $CGATE_DATA_DIR, the user's cache. The files are not
    checked.

    Raises:
        CgateError: it is in none of these places, or `name` is no data set with files.
    """
    source = find_source(name)
    names = (source.folder, *source.also)
    looked = [place / name for place in _places(data_dir) for name in names]
    for folder in looked:
        if all(source.path(folder, file) for file in source.files):
            return folder
    raise CgateError(
        f"{name} was not found; looked at {', '.join(map(str, looked))}",
        f"run `cgate data download {name}`, or give --data-dir",
    )


def list_data(data_dir: Path | None = None) -> tuple[Found, ...]:
    """For each data set, whether it can be loaded and where it lies."""
    rows = []
    for name in DATASETS:
        if name not in SOURCES:
            try:
                _load_digits()
                rows.append(Found(name, True, None, "comes with scikit-learn"))
            except CgateError as error:
                rows.append(Found(name, False, None, f"{error.message}; {error.hint}"))
            continue
        try:
            rows.append(Found(name, True, find_data(name, data_dir), ""))
        except CgateError as error:
            rows.append(Found(name, False, None, error.hint))
    return tuple(rows)


def read_checked(source: Source, folder: Path, file: str) -> bytes:
    """The unpacked bytes of an official file; they are the very bytes whose md5 was taken.

    Raises:
        CgateError: it is missing, unreadable or another one.
    """
    path, md5 = source.path(folder, file) or folder / file, source.files[file]
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    # A damaged .gz raises EOFError, zlib.error or gzip.BadGzipFile, which is an OSError.
    except (OSError, EOFError, zlib.error) as error:
        raise CgateError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}",
            f"make it readable, or run `cgate data download {source.name}`",
        ) from error
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise CgateError(
            f"{path} is corrupt: its md5 is {found}, the official file has {md5}",
            "delete it and run `cgate data download`",
        )
    return data


def check_data(name: str, folder: Path) -> None:
    """Compare each file in `folder` with the md5 of the official one. Nothing is unpickled.

    Raises:
        CgateError: a file is missing or differs; the message names it.
    """
    source = find_source(name)
    for file in source.files:
        read_checked(source, folder, file)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, strings and NumPy arrays, and calls nothing else."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}")
        return self.ALLOWED[module, name]


def _unpickle(data: bytes, path: Path) -> Mapping[bytes, Any]:
    try:
        value = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    # A damaged pickle can raise nearly anything.
    except Exception as error:
        raise CgateError(f"{path} is no CIFAR file: {error}") from error
    if not isinstance(value, dict):
        raise CgateError(f"{path} is no CIFAR file: it holds a {type(value).__name__}")
    return value


def _load_cifar(source: Source, folder: Path) -> Dataset:
    fine = source.name == "cifar100"
    batches: dict[str, Mapping[bytes, Any]] = {
        file: _unpickle(read_checked(source, folder, file), folder / file) for file in source.files
    }
    *image_files, names_file = source.files
    names = batches[names_file][b"fine_label_names" if fine else b"label_names"]

    def split(files: list[str]) -> Split:
        planes = np.concatenate([batches[file][b"data"] for file in files])
        labels = np.concatenate(
            [batches[file][b"fine_labels" if fine else b"labels"] for file in files]
        )
        images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(images), labels.astype(np.int64))

    *train_files, test_file = image_files
    classes = tuple(name.decode() for name in names)
    return _dataset(source, split(train_files), split([test_file]), classes, CIFAR_INPUT)


def _dataset(
    source: Source,
    everything: Split,
    test: Split,
    classes: tuple[str, ...],
    pixels: tuple[int, int],
) -> Dataset:
    """Cut the last training images off for validation.

    Args:
        everything: the official training images.
        pixels: input_zero and input_divisor.
    """
    first = len(everything) - VALIDATION_IMAGES
    return Dataset(
        source.name,
        Split(everything.images[:first], everything.labels[:first]),
        Split(everything.images[first:], everything.labels[first:]),
        test,
        classes,
        source.digest,
        *pixels,
    )


TEN_DIGITS = tuple(str(n) for n in range(10))


def read_idx(data: bytes) -> NDArray[np.uint8]:
    """An array of the idx format of MNIST: a magic number, big-endian sizes, then the values.

    Raises:
        ValueError: it is no idx file of uint8.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError("no idx file of uint8")
    dimensions = data[3]
    shape = [int(n) for n in np.frombuffer(data, ">u4", dimensions, 4)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _load_mnist(source: Source, folder: Path) -> Dataset:
    def split(images: str, labels: str) -> Split:
        try:
            pixels, names = (
                read_idx(read_checked(source, folder, file)) for file in (images, labels)
            )
        except ValueError as error:
            raise CgateError(f"{folder} holds a damaged file: {error}") from error
        return Split(pixels[..., None], names.astype(np.int64))

    first, second, third, fourth = source.files
    return _dataset(source, split(first, second), split(third, fourth), TEN_DIGITS, MNIST_INPUT)


def _load_svhn(source: Source, folder: Path) -> Dataset:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise CgateError(
            "the files of svhn are read by scipy, which is not installed",
            "run `pip install 'cgate[demo]'`",
            EXIT_TOOL_MISSING,
        ) from error

    def split(file: str) -> Split:
        content = loadmat(io.BytesIO(read_checked(source, folder, file)))
        # Images come as [row, column, channel, image]; the digit 0 is labelled 10.
        images = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
        return Split(images, content["y"].ravel().astype(np.int64) % 10)

    train, test = source.files
    return _dataset(source, split(train), split(test), TEN_DIGITS, SVHN_INPUT)


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A shuffled order in which any run of images holds each class in proportion.

    Args:
        labels: int64 [N].
        seed: of the shuffle.

    Returns:
        int64 [N], a permutation. Within a run of n images, a class with share p has between
        n * p - 2 and n * p + 2 images.
    """
    # RandomState, because its stream is frozen; that of default_rng may change between versions.
    random = np.random.RandomState(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position[members] = (random.permutation(len(members)) + 0.5) / len(members)
    return np.argsort(position, kind="stable").astype(np.int64)


def _load_digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise CgateError(
            "the digits data set comes with scikit-learn, which is not installed",
            "run `pip install 'cgate[demo]'`",
            EXIT_TOOL_MISSING,
        ) from error
    raw = load_digits()
    images = (raw.images * 15).astype(np.uint8)[..., None]  # values are 0..16
    labels = raw.target.astype(np.int64)
    digest = hashlib.md5(images.tobytes() + labels.tobytes(), usedforsecurity=False)
    order = stratified_order(labels, seed=0)

    def split(part: NDArray[np.int64]) -> Split:
        return Split(images[part], labels[part])

    return Dataset(
        "digits",
        split(order[DIGITS_TEST + DIGITS_VALIDATION :]),
        split(order[DIGITS_TEST : DIGITS_TEST + DIGITS_VALIDATION]),
        split(order[:DIGITS_TEST]),
        TEN_DIGITS,
        digest.hexdigest(),
        *DIGITS_INPUT,
    )


def load_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """Find, check and load a data set; see `find_data` for the places looked at.

    Raises:
        CgateError: unknown name, files missing or corrupt, or scikit-learn missing (code 3).
    """
    _check_name(name)
    if name not in SOURCES:
        return _load_digits()
    loaders = {"mnist": _load_mnist, "svhn": _load_svhn}
    return loaders.get(name, _load_cifar)(SOURCES[name], find_data(name, data_dir))

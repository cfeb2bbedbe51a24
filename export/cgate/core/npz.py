"""Reading weights.npz, which may be damaged: nothing is allocated that the file does not hold.

numpy.load trusts the sizes that the archive and its members claim.
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("int8", "int32", "float32")


# numpy's stubs leave them untyped.
_npy: Any = np.lib.format


def _member(data: bytes, name: str) -> NDArray[Any]:
    stream = io.BytesIO(data)
    if _npy.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} is no array of version 1.0")
    shape, fortran, dtype = _npy.read_array_header_1_0(stream)
    if dtype.name not in DTYPES or fortran or any(size < 0 for size in shape):
        raise ValueError(f"{name} is {dtype}{list(shape)}; arrays are {', '.join(DTYPES)}")
    body = data[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{name} has {len(body)} bytes, which are not {dtype}{list(shape)}")
    return np.frombuffer(body, dtype).reshape(shape)


def read_npz(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an archive as `plan_files` writes it: stored, int8, int32 or float32.

    Raises:
        ValueError: it is no such archive.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            for info in members.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                    raise ValueError(f"{info.filename} is compressed or larger than the archive")
                name = info.filename.removesuffix(".npy")
                arrays[name] = _member(members.read(info), name)
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    except (SyntaxError, TypeError, RuntimeError, OSError) as error:
        # What damaged headers make the parsers of numpy and zipfile say.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return arrays

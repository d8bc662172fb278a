"""Opening a file that a stranger wrote: what it promises is held to what it has, only then torch makes its tensors."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from audiotag.errors import AudiotagError, CheckpointError

MAX_PICKLE_BYTES = 2**24

# What a damaged pickle or storage ends in.
_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError,
    MemoryError, NotImplementedError,
)  # fmt: skip


def load_archive(path: Path) -> dict[str, Any]:
    """The content of a file that `torch.save` wrote: tensors on the CPU, numbers, text, and never code.

    Raises:
        CheckpointError: it is truncated, of another kind, holds code, or promises tensors that it does not hold.
    """
    try:
        _check_archive(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except AudiotagError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: does not exist. Check the path") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}. Check the file") from error
    except zipfile.BadZipFile as error:
        what = "is truncated, or no checkpoint of PyTorch 1.6 or newer"
        raise CheckpointError(f"{path}: {what}. Fetch or make it again") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: is damaged: {error}. Fetch or make it again") from error
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path}: holds a {type(saved).__name__} instead of a checkpoint. Check the file")
    return saved


def _check_archive(path: Path) -> None:
    """Holds what the file promises to what it has.

    `torch.load` believes the sizes in the pickle: it would allocate a promised tensor, or read past a storage's end.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if sum(member.file_size for member in members.values()) > path.stat().st_size:
            raise CheckpointError(f"{path}: its parts claim to be larger than the file. Do not use it")
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1 or members[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path}: is no checkpoint of PyTorch 1.6 or newer. Check the file")
        root = pickles[0].removesuffix("data.pkl")
        sizes = {name.removeprefix(f"{root}data/"): member.file_size for name, member in members.items()}
        _Promises(archive.read(pickles[0]), path, sizes).load()


# Bytes of a value in each kind of storage that torch names.
_STORAGE_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip


class _Storage:
    """A promised storage; `n` values."""

    def __init__(self, n: int) -> None:
        self.n = n


class _Promises(pickle.Unpickler):
    """Goes through a checkpoint's pickle without making a tensor or calling anything that it names."""

    def __init__(self, content: bytes, path: Path, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path
        self._sizes = sizes  # bytes of each storage in the file

    def find_class(self, module: str, name: str) -> Any:
        """Stands in for the few names that a checkpoint of tensors has."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._check_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        if module == "torch" and name in _STORAGE_BYTES:
            return _STORAGE_BYTES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return None
        raise CheckpointError(f"{self._path}: holds code ({module}.{name}), not only tensors. Do not use it")

    def persistent_load(self, pid: Any) -> _Storage:
        """Checks that a promised storage is in the file as a whole."""
        _, n_bytes, key, _, n = pid
        if not isinstance(n, int) or n < 0 or n * n_bytes > self._sizes.get(key, -1):
            raise CheckpointError(f"{self._path}: promises {n} values that it does not hold. It is damaged or hostile")
        return _Storage(n)

    def _check_tensor(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> None:
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        is_inside = min((offset, *shape, *strides)) >= 0 and (0 in shape or last < storage.n)
        # Strides of 0 could blow one value up to any size.
        if not is_inside or math.prod(shape) > max(storage.n, 1):
            raise CheckpointError(
                f"{self._path}: promises a tensor of {list(shape)} where it holds {storage.n} values. "
                "It is damaged or hostile"
            )


def _first(value: Any, *_: Any) -> Any:
    return value

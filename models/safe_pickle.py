"""Reads a `.npy` file that holds a pickled object, without running anything that is in it.

A pickle is a program that may call any function of any module.  Here it gets none: the few names it may mention are
inert stand-ins, calling one only notes what was asked for, and the arrays and tensors are then made by this file from
checked numbers.  numpy's and torch's own functions never see what the pickle says, because `_load_from_bytes` is a
second, unrestricted pickle, and the state of a dtype or an object array can point numpy at memory that is not its own.
"""

import io
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from .errors import InputError

UNDER_WAY = object()  # what `made` meets only in a container that is inside itself


class Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not plain data."""


def load_pickled_npy(path: str | Path) -> Any:
    """The dict, list, str, number, numpy array or torch tensor in an object `.npy`, or any nesting of them.

    InputError if the file is missing or damaged, or holds anything else; nothing of it is run.
    """
    try:
        with open(path, "rb") as file:
            shape, _, dtype = read_header(file)
            if dtype.kind != "O":
                raise InputError(f"{path}: a plain array of {dtype}, where a pickled dict is wanted")
            content = made(PlainUnpickler(file).load(), {})
        if content.shape != shape:
            raise ValueError("the header is not of this array")
    except Refused as error:
        raise InputError(
            f"{path}: holds {error}; refused, and nothing of it was run: "
            "only dicts, lists, text, numbers, arrays and contiguous tensors are read"
        ) from error
    except (OSError, InputError):
        raise
    except Exception as error:  # malformed pickles raise almost anything
        raise InputError(f"{path}: no .npy of a pickled dict, or cut off or damaged; download it again") from error
    return content.item() if shape == () else content


def read_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the array in an open `.npy` file."""
    return npy.read_array_header_1_0(file) if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0(file)


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in MAKERS and a few more, and all of them only as stand-ins."""

    def find_class(self, module: str, name: str) -> "Name":
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # numpy 2 and 1
        if full not in MAKERS and full not in ("numpy.ndarray", "collections.OrderedDict"):
            raise Refused(full)
        return Name(full)


class Name:
    """What a pickle gets for an admitted global.  Calling it notes the call."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args) -> "Call | dict":
        return {} if self.name == "collections.OrderedDict" else Call(self.name, args)


class Call:
    """What a pickle asked for: a call of `name` with `args`, then the object's `state`."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple):
        self.name, self.args, self.state = name, args, None

    def __setstate__(self, state) -> None:
        self.state = state


def made(value: Any, done: dict[int, Any]) -> Any:
    """`value` with every noted call replaced by the data it stands for.

    `done` has the results by identity, so that what a pickle mentions a million times is made once.
    """
    if type(value) in (bool, int, float, str, type(None)):
        return value
    if id(value) not in done:
        done[id(value)] = UNDER_WAY
        done[id(value)] = made_anew(value, done)
    if done[id(value)] is UNDER_WAY:
        raise Refused("a container inside itself")
    return done[id(value)]


def made_anew(value: Any, done: dict[int, Any]) -> Any:
    if type(value) is dict:
        return {made(key, done): made(item, done) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(made(item, done) for item in value)
    if type(value) is Call and value.name in MAKERS:
        return MAKERS[value.name](value, done)
    raise Refused(f"a {getattr(value, 'name', type(value).__name__)}")


def make_dtype(call: Call, done: dict[int, Any]) -> np.dtype:
    """Numbers, strings and objects only: `dtype("f4", False, True)`, its state (version, byte order, …)."""
    code = call.args[0]
    if not re.fullmatch(r"b1|[iu][1248]|f[248]|U\d+|O[48]?", code):
        raise Refused(f"a dtype {code!r}")
    return np.dtype(code[0] if code[0] == "O" else code).newbyteorder(call.state[1])


def make_array(call: Call, done: dict[int, Any]) -> np.ndarray:
    """An ndarray from its state (version, shape, dtype, Fortran order, content)."""
    _, shape, dtype, fortran, content = call.state
    dtype = made(dtype, done)
    if dtype.kind != "O":
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()
    flat = np.empty(len(content), dtype)
    for index, item in enumerate(content):
        flat[index] = made(item, done)
    return flat.reshape(shape)


def make_scalar(call: Call, done: dict[int, Any]) -> np.generic:
    """A numpy number or string from its dtype and bytes."""
    dtype, content = call.args
    return np.frombuffer(content, made(dtype, done)).reshape(())[()]


def make_tensor(call: Call, done: dict[int, Any]) -> Tensor:
    """A contiguous tensor from its storage, offset, size and stride, which must lie within the storage."""
    storage, offset, size, stride = call.args[:4]
    flat = made(storage, done)  # (numbers in the storage,)
    count = math.prod(size)
    if tuple(stride) != torch.empty(size, device="meta").stride() or not 0 <= offset <= len(flat) - count:
        raise Refused("a tensor that is not contiguous")
    return flat[offset : offset + count].reshape(size).clone()


def make_storage(call: Call, done: dict[int, Any]) -> Tensor:
    """All numbers of a torch storage, which is pickled as the bytes of a weight file."""
    (content,) = call.args
    try:
        storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused("a tensor with more than numbers in it") from error
    if not isinstance(storage, torch.storage.TypedStorage):
        raise Refused(f"a tensor with a {type(storage).__name__} in it")
    return torch.empty(0, dtype=storage.dtype).set_(storage)


MAKERS = {
    "numpy.dtype": make_dtype,
    "numpy.core.multiarray._reconstruct": make_array,
    "numpy.core.multiarray.scalar": make_scalar,
    "torch._utils._rebuild_tensor_v2": make_tensor,
    "torch.storage._load_from_bytes": make_storage,
}

"""The one place that reads weight files: never runs code from them, and says what does not fit."""

import pickle
import warnings
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError
from .files import replacing

RELEASE = "https://github.com/youyuge34/AVAS/releases/download"
RECALL_URL = f"{RELEASE}/v0.1/commodity_poi_mml_20211221_with_MKG_withMKG_iteration_200000_0.4215_0.407_0.018.pth"
RANKING_URL = f"{RELEASE}/v0.2/shoucai_siamese_train_concat_poi_020_0.6520.ckpt"

# `min_loss` was saved as a numpy scalar; numpy 1 and 2 spell its constructor differently.
NUMPY_SCALARS = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32")),
]


class Checkpoint(NamedTuple):
    """A weight file's tensors, the sizes it was made with (None: the published ones), and whatever else it holds."""

    state: dict[str, Tensor]
    config: dict[str, Any] | None
    extra: dict[str, Any]


def load_checkpoint(path: str | Path, url: str = RECALL_URL) -> Checkpoint:
    """Read a bare state dict or `{"state_dict": …, "config": …, …}`, a `module.` prefix taken off.

    InputError if the file is missing (naming `url`), damaged, no weight file, or holds anything but plain data.
    """
    content = load_plain_data(path, url)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state dict")
    wrapped = isinstance(content.get("state_dict"), dict)
    state = content["state_dict"] if wrapped else content
    if not state or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise InputError(f"{path}: no state dict of named tensors; is it the file of {url} ?")
    extra = {key: value for key, value in content.items() if key != "state_dict"} if wrapped else {}
    config = extra.pop("config", None)
    return Checkpoint({key.removeprefix("module."): value for key, value in state.items()}, config, extra)


def load_plain_data(path: str | Path, url: str) -> Any:
    """`torch.load` restricted to tensors and plain data.  InputError for everything else."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, a weight file is wanted")
    if not path.is_file():
        raise InputError(f"{path}: no such file; run download_release.py, or save {url} there, or name another file")
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path}: an HTML page, not weights; delete it and download {url} again")
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of the file's format
            # mapped, not read: what is not needed never enters memory
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not plain weights: another kind of file, damaged, or it holds code, which is never run; "
            f"download {url} again"
        ) from error
    except Exception as error:  # whatever a reader of bytes can stumble over
        raise InputError(f"{path}: cut off or damaged; delete it and download {url} again") from error


def load_weights(model: nn.Module, state: dict[str, Tensor], path: str | Path, known: tuple[str, ...] = ()) -> None:
    """Load `state` strictly; keys that start with one of `known` may be there or not and are dropped.

    InputError names the tensors that are missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not key.startswith(known)}
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    problems = [
        named("missing", [key for key in wanted if key not in state]),
        named("unexpected", [key for key in state if key not in wanted]),
        named("of another shape", shapes),
    ]
    if any(problems):
        raise InputError(f"{path}: does not fit the model: {'; '.join(filter(None, problems))}")
    # A tensor without memory is replaced by the file's, one with memory filled from it.
    without_memory = any(tensor.is_meta for tensor in wanted.values())
    model.load_state_dict({key: state[key].to(wanted[key].dtype) for key in wanted}, assign=without_memory)


def named(what: str, names: list[str], most: int = 3) -> str:
    """`2 missing: a, b`; the empty string for no names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what}: {', '.join(names[:most])}{more}" if names else ""


def config_from(kind: type, values: dict[str, Any] | None, path: str | Path) -> Any:
    """A config dataclass of numbers from a checkpoint's `config`; the published sizes where it has none."""
    if values is None:
        return kind()
    try:
        defaults = asdict(kind())
        unknown = values.keys() - defaults.keys()
        wrong = [key for key in values if key in defaults and type(values[key]) not in (int, float)]
        if unknown or wrong:
            raise ValueError(f"{', '.join(map(str, sorted(unknown | set(wrong))))}")
        return kind(**values)
    except (ValueError, TypeError, AttributeError) as error:
        expected = ", ".join(field.name for field in fields(kind))
        raise InputError(f"{path}: its config has wrong entries ({error}); expected numbers for {expected}") from error


def save_checkpoint(path: str | Path, model: nn.Module, **extra: Any) -> None:
    """Write `{"state_dict", "config", …}`, whole or not at all; `load_checkpoint` reads it."""
    with replacing(path) as partial:
        torch.save({"state_dict": model.state_dict(), "config": asdict(model.config), **extra}, partial)

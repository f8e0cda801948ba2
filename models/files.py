"""Results appear whole or not at all: written beside their place, then renamed."""

import os
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


def check_output(path: str | Path) -> Path:
    """`path` if a file can be written there; called before the long work, not after.  InputError otherwise."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder for the output file {path.name}; make it first")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, an output file is wanted")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent}: cannot write there; choose another place for {path.name}")
    return path


@contextmanager
def replacing(path: str | Path):
    """Yield a temporary path beside `path`; rename it there at the end, remove it if anything was raised.

    A link stays one, and what is no file, such as /dev/null, is written to as it is.
    """
    path = check_output(path).resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

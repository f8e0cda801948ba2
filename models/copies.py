"""Files with the same content, which are encoded once, so that their scores are the same to the last digit."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .encode import ImageVectors, encode_images
from .loading import TwoTower


def encode_distinct(towers: TwoTower, paths: Sequence[Path], *encoding) -> ImageVectors:
    """`encode_images`, but one vector for all copies of a file.

    Encoded apart they would differ in the last digits, by their places in a batch, and so come in any order.
    """
    first = first_copies(paths)
    images = encode_images(towers, list(dict.fromkeys(first.values())), *encoding)
    rows, reasons = {path: row for row, path in enumerate(images.paths)}, dict(images.failed)
    readable = [path for path in paths if first[path] in rows]
    failed = [(path, reasons[first[path]]) for path in paths if first[path] in reasons]
    return ImageVectors(readable, images.vectors[[rows[first[path]] for path in readable]], failed)


def first_copies(paths: Sequence[Path]) -> dict[Path, Path]:
    """Each file, and the first of `paths` with the same content; only files of equal size are read for it."""
    sizes = {path: path.stat().st_size if path.is_file() else None for path in paths}
    frequency = Counter(sizes.values())
    first: dict[Path | bytes, Path] = {}
    return {path: first.setdefault(path if frequency[sizes[path]] == 1 else content(path), path) for path in paths}


def content(path: Path) -> Path | bytes:
    """What equal files have in common; of one that cannot be read its path, for encode_images to say why."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return path

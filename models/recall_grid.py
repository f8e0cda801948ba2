"""The fast way to read stage 1's result where it is a grid: POI after POI, each with the same images in the same order.

That is how the recall script writes all pairs.  The first POI's rows then say what every other row must be up to its
score, so nothing is split into fields: whole runs of rows are compared with it at once, and only scores are parsed.
"""

import csv
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from .byte_fields import first_bytes, parse_numbers, take
from .errors import InputError
from .tables import csv_rows

FIELDS = ("poi_id", "poi_name", "image_path", "score")
BLOCK_BYTES = 1 << 22  # read at a time; bounds the memory
THREADS = 2  # numpy lets go of the GIL for part of the work; with more they wait for each other


def read_grid(path: str | Path) -> tuple[dict[str, str], list[str], np.ndarray] | None:
    """The names of P POIs by id, I image paths and the (P, I) scores; None unless every byte is as in a grid."""
    try:
        images = first_images(path)
        names, scores = {}, []
        for poi_id, name, row in read_runs(path, images):
            if poi_id in names:
                return None
            names[poi_id] = name
            scores.append(row)
    except (ValueError, IndexError, csv.Error, InputError):
        return None  # a mistake, or another layout: the reader of single rows will tell
    return names, images, np.array(scores)


def first_images(path: str | Path) -> list[str]:
    """The images of the rows that the file begins with and that are of one POI."""
    images, first = {}, None
    for _, (poi_id, _, image, _) in csv_rows(path, FIELDS):
        if poi_id != first and first is not None:
            break
        if set(image) & set('",\r\n'):
            raise ValueError("quoted")
        first, images[image] = poi_id, None
    return list(images)


def read_runs(path: str | Path, images: list[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Each POI's id, name and scores.  ValueError or IndexError where the file is no grid of these images."""
    expected = [f"{image},".encode() for image in images]
    lengths = np.array([len(text) for text in expected])  # (I,)
    mask = first_bytes(lengths)  # (I, W)
    words = take(b"".join(expected), np.cumsum(lengths) - lengths, mask)
    read = partial(read_block, first=expected[0], lengths=lengths, mask=mask, words=words)
    pending = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for block in blocks(path, len(images)):
            pending.append(pool.submit(read, block))
            if len(pending) > THREADS:  # a bound, or the whole file would be in memory
                yield from pending.popleft().result()
        for future in pending:
            yield from future.result()


def blocks(path: str | Path, run: int) -> Iterator[tuple[bytes, np.ndarray]]:
    """The file in pieces of whole runs of rows, each with the places of its line ends."""
    with open(path, "rb") as file:
        if file.read(len(BOM_UTF8)) != BOM_UTF8:
            file.seek(0)
        rest = b""
        while piece := file.read(size := max(BLOCK_BYTES, len(rest))):
            if len(piece) < size and not piece.endswith(b"\n"):
                piece += b"\n"  # the last line may do without
            piece = rest + piece
            ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
            ends = ends[: len(ends) // run * run]
            if len(ends):
                yield piece, ends
                piece = piece[ends[-1] + 1 :]
            rest = piece
        if rest:
            raise ValueError("rows are left")


def read_block(
    block: tuple[bytes, np.ndarray], first: bytes, lengths: np.ndarray, mask: np.ndarray, words: np.ndarray
) -> list[tuple[str, str, np.ndarray]]:
    """(poi_id, poi_name, (I,) scores) of each run of a block."""
    text, ends = block
    ends = ends.reshape(-1, len(lengths))  # (runs, I)
    starts = np.concatenate([[0], ends.flat[:-1] + 1]).reshape(ends.shape)
    names = []
    for start, end in zip(starts, ends, strict=True):
        head = text[start[0] : text.index(b"," + first, start[0], end[0]) + 1]  # b"10060,普陀山,"
        heads = take(text, start, first_bytes(len(head)))  # (I, W)
        if (heads != heads[0]).any():
            raise ValueError("rows of another POI")
        names.append(next(csv.reader([head.decode()], strict=True))[:2])
        start += len(head)
    images = take(text, starts.ravel(), np.tile(mask, (len(starts), 1)))
    if (images.reshape(len(starts), *words.shape) != words).any():
        raise ValueError("other images")
    starts += lengths
    if (starts >= ends).any():
        raise ValueError("a row without a score")
    scores = parse_numbers(text, starts.ravel(), ends.ravel()).reshape(ends.shape)
    return [(poi_id, name, row) for (poi_id, name), row in zip(names, scores, strict=True)]

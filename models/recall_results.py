"""Stage 1's result CSV, read back: millions of rows as three compact arrays.  models/recall_scores.py writes it."""

import math
from codecs import BOM_UTF8
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path, PureWindowsPath

import numpy as np
import pandas as pd

from .errors import InputError
from .images import poi_of_image
from .tables import csv_rows

FIELDS = ("poi_id", "poi_name", "image_path", "score")
BLOCK_BYTES = 1 << 23  # what a thread parses at a time; bounds the memory
THREADS = 4


@dataclass
class RecallScores:
    """N scored pairs of P POIs and I images; POIs and images stand in the order of their first row."""

    path: str
    poi_ids: list[str]  # (P,)
    poi_names: list[str]  # (P,) the first name of each id
    images: list[str]  # (I,) paths as they stand in the file
    poi: np.ndarray  # (N,) int32, index into poi_ids
    image: np.ndarray  # (N,) int32, index into images
    score: np.ndarray  # (N,) float64

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """The row numbers of each POI, in the order of the file, wherever they stand."""
        order = np.argsort(self.poi, kind="stable")  # linear where the POIs stand one after another already
        return np.split(order, np.cumsum(np.bincount(self.poi, minlength=len(self.poi_ids)))[:-1])

    @cached_property
    def owner_ids(self) -> list[str]:
        """(I,) the POI that each image belongs to by its file name, which need not be one of poi_ids."""
        return [poi_of_image(file_name(path)) for path in self.images]

    @property
    def truncated(self) -> bool:
        """Whether the file holds only the best images of each POI (the recall script's top_k)."""
        return len(self.score) < len(self.poi_ids) * len(self.images)


def file_name(image_path: str) -> str:
    """The last part of a path that was written on any system."""
    return PureWindowsPath(image_path).name


def read_recall_scores(path: str | Path) -> RecallScores:
    """Read a result CSV.  InputError names the file and the line of what is malformed, missing or there twice."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; align_recall_test_with_mmkg_model.py writes it")
    ids, images, names, parts = {}, {}, [], []
    try:
        for table in parsed_blocks(path):
            poi, new = codes(table["poi_id"], ids)
            names += table["poi_name"].iloc[new].tolist()
            image, _ = codes(table["image_path"], images)
            parts.append((poi, image, table["score"].to_numpy()))
        if not ids:
            raise InputError(f"{path}: the result is empty")
        poi, image, score = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if not np.isfinite(score).all() or "" in ids or not all("_" in file_name(image) for image in images):
            raise ValueError("a field is malformed")
    except ValueError as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        check_rows(path)
        raise InputError(f"{path}: cannot be read as {','.join(FIELDS)} ({error})") from error
    scores = RecallScores(str(path), list(ids), names, list(images), poi, image, score)
    check_pairs(scores)
    return scores


def parsed_blocks(path: str | Path):
    """The file as pandas tables, a block after the other; pandas lets go of the GIL, so threads parse side by side."""
    source = blocks(path)
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(source, THREADS)):
            yield from pool.map(parse, batch)


def blocks(path: str | Path):
    """The bytes of a file in pieces of whole rows."""
    with open(path, "rb") as file:
        block = file.read(len(BOM_UTF8)).removeprefix(BOM_UTF8)
        while piece := file.read(BLOCK_BYTES) + file.readline():
            block += piece
            if block.count(b'"') % 2 == 0:  # else a quoted name goes on in the next line
                yield block
                block = b""
        if block:
            yield block


def parse(block: bytes):
    """Whole rows -> a table of three categorical columns and the score."""
    # The row in front keeps pandas from taking ids for numbers ("007" for "7"), and says how many fields there are.
    head = ",".join(FIELDS[:3]) + ",0\n"
    exact = {} if pd.__version__ >= "3.1" else {"float_precision": "round_trip"}  # deprecated where it is needless
    return pd.read_csv(
        BytesIO(head.encode() + block),
        header=None,
        names=FIELDS,
        dtype=dict.fromkeys(FIELDS[:3], "category") | {"score": np.float64},
        na_filter=False,  # a POI may be called NA
        low_memory=False,
        **exact,
    ).iloc[1:]


def codes(column, known: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """A categorical column as int32 indices into `known`, which grows; and the rows where a new text comes first."""
    local = column.cat.codes  # indices into this block's own categories
    first = np.flatnonzero(~local.duplicated())
    texts = column.iloc[first].tolist()
    new = first[[text not in known for text in texts]]
    table = np.empty(len(column.cat.categories), np.int32)
    table[local.iloc[first]] = [known.setdefault(text, len(known)) for text in texts]
    return table[local], new


def check_rows(path: str | Path) -> None:
    """The slow pass over a file that pandas refused: InputError with the line of the first mistake."""
    for line, (poi_id, _, image_path, score) in csv_rows(path, FIELDS):
        if not poi_id:
            raise InputError(f"{path}, line {line}: no poi_id")
        if "_" not in file_name(image_path):
            raise InputError(f"{path}, line {line}: image {image_path!r} does not name its POI before a `_`")
        try:
            finite = math.isfinite(float(score))
        except ValueError:
            finite = False
        if not finite:
            raise InputError(f"{path}, line {line}: score {score!r} is no finite number")


def check_pairs(scores: RecallScores) -> None:
    """InputError where a pair of POI and image is there twice, or a POI has fewer images than the others."""
    place = np.zeros(len(scores.images), np.int64)
    most = max(len(rows) for rows in scores.rows)
    for poi_id, rows in zip(scores.poi_ids, scores.rows, strict=True):
        images = scores.image[rows]
        place[images] = rows  # of a pair that is there twice the later row stays
        twice = np.flatnonzero(place[images] != rows)
        if len(twice):
            first = rows[twice[0]]
            image = scores.image[first]
            raise InputError(
                f"{scores.path}, line {line_of_row(scores.path, place[image])}: POI {poi_id} and image "
                f"{scores.images[image]} stand in line {line_of_row(scores.path, first)} already"
            )
        if len(rows) < most:
            missing = ""
            if most == len(scores.images):
                missing = f"; {scores.images[np.setdiff1d(np.arange(most), images)[0]]} is missing"
            raise InputError(
                f"{scores.path}, line {line_of_row(scores.path, rows[-1])}: the rows of POI {poi_id} end here, "
                f"{len(rows)} of them where others have {most}{missing}; write the file again"
            )


def line_of_row(path: str | Path, row: int) -> int:
    """The line on which a row of the file ends; names may hold line breaks, and blank lines are no rows."""
    for number, (line, _) in enumerate(csv_rows(path, FIELDS)):
        if number == row:
            return line
    raise InputError(f"{path}: changed while it was read")

"""Stage 1's result CSV, read back: millions of rows as three compact arrays.  models/recall_scores.py writes it."""

import math
from array import array
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .errors import InputError
from .images import poi_of_image
from .recall_grid import FIELDS, read_grid
from .tables import csv_rows


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
    return image_path[max(image_path.rfind("/"), image_path.rfind("\\")) + 1 :]


def read_recall_scores(path: str | Path) -> RecallScores:
    """Read a result CSV.  InputError names the file and the line of what is malformed, missing or there twice."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; align_recall_test_with_mmkg_model.py writes it")
    if grid := read_grid(path):
        names, images, score = grid
        if "" not in names and all(map(names_a_poi, images)) and np.isfinite(score).all():
            poi, image = np.indices(score.shape, dtype=np.int32).reshape(2, -1)
            return RecallScores(str(path), list(names), list(names.values()), images, poi, image, score.ravel())
    scores = read_rows(path)
    check_pairs(scores)
    return scores


def read_rows(path: str | Path) -> RecallScores:
    """Any result, row after row: slower than read_grid by far, but it takes any order and finds every mistake."""
    ids, names, images = {}, [], {}
    poi, image, score = columns = array("i"), array("i"), array("d")
    for line, (poi_id, poi_name, image_path, text) in csv_rows(path, FIELDS):
        if poi_id not in ids:
            names.append(poi_name)
        if not poi_id:
            raise InputError(f"{path}, line {line}: no poi_id")
        if image_path not in images and not names_a_poi(image_path):
            raise InputError(f"{path}, line {line}: image {image_path!r} does not name its POI before a `_`")
        poi.append(ids.setdefault(poi_id, len(ids)))
        image.append(images.setdefault(image_path, len(images)))
        score.append(number(text))
        if not math.isfinite(score[-1]):
            raise InputError(f"{path}, line {line}: score {text!r} is no finite number")
    if not ids:
        raise InputError(f"{path}: the result is empty")
    return RecallScores(str(path), list(ids), names, list(images), *(np.asarray(column) for column in columns))


def names_a_poi(image_path: str) -> bool:
    return "_" in file_name(image_path)


def number(text: str) -> float:
    """A score; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


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

"""Stage 1's result CSV, no header: `poi_id,poi_name,image_path,score`, one row for each POI and image."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from .files import replacing


def csv_field(text: str) -> str:
    """`text` as a CSV field, quoted where it has to be."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([text])  # the line ends decide that \r and \n are quoted
    return line.getvalue().removesuffix("\r\n")


def write_recall_scores(
    path: str | Path,
    pois: Iterable[tuple[str, str, Tensor]],
    image_paths: list[str],
    image_vectors: Tensor,
    top_k: int | None = None,
) -> int:
    """Write every image's cosine for each (poi_id, poi_name, text vector), POI after POI; returns the number of rows.

    Images keep their order; with `top_k` only the best of each POI are written, best first (ties: first image first).
    Scores are written with nine digits, which is every float32 exactly.
    """
    tails = [f",{csv_field(image)},".replace("%", "%%") + "%.9g\n" for image in image_paths]
    rows = 0
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        for poi_id, poi_name, text_vector in pois:
            scores = (image_vectors @ text_vector).numpy()  # (N,)
            order = range(len(scores)) if top_k is None else best(scores, top_k)
            head = f"{csv_field(poi_id)},{csv_field(poi_name)}"
            values = scores.tolist()
            file.writelines([head + tails[index] % values[index] for index in order])
            rows += len(order)
    return rows


def best(scores: np.ndarray, k: int) -> list[int]:
    """Indices of the k highest scores, best first; of equal scores the first."""
    return np.argsort(-scores, kind="stable")[:k].tolist()

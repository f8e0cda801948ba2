"""Several results of stage 1 side by side: one table, and every POI's first hit."""

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from .errors import InputError
from .files import replacing
from .recall_metrics import OwnImages, bootstrap_interval, hits, ndcg, own_images, reciprocal_ranks
from .recall_results import RecallScores, file_name

PER_POI_FIELDS = ("scores_csv", "poi_id", "poi_name", "own_images", "first_hit", "image_path", "score")


def check_comparable(results: Sequence[RecallScores], ks: Sequence[int]) -> None:
    """InputError where results are over different POIs, or hold too few images of each for one of the K."""
    for first, other in pairwise(results):
        alone = [
            f"only in {here.path}: {listed(here, there)}"
            for here, there in ((first, other), (other, first))
            if set(here.poi_ids) - set(there.poi_ids)
        ]
        if alone:
            raise InputError(f"the results are over different POIs and cannot be compared; {'; '.join(alone)}")
    for result in results:
        kept = len(result.rows[0])
        if result.truncated and max(ks) > kept:
            raise InputError(
                f"{result.path}: holds only the {kept} best images of each POI; recall@{max(ks)} needs more"
            )


def listed(here: RecallScores, there: RecallScores, most: int = 5) -> str:
    """The POIs that only the first of two results has."""
    alone = sorted(set(here.poi_ids) - set(there.poi_ids))
    return ", ".join(alone[:most]) + (f" and {len(alone) - most} more" if len(alone) > most else "")


def merge_names(result: RecallScores, names: dict[str, str]) -> list[OwnImages]:
    """Own images where POIs of one name are one POI: ranked like its first id, with the own images of all its ids.

    `names` has the name of each id.
    """
    labels = [names[poi] for poi in result.poi_ids]
    own = own_images(result, labels, [names.get(owner) for owner in result.owner_ids])
    return [own[labels.index(name)] for name in dict.fromkeys(names.values())]


def metrics(own: list[OwnImages], ks: Sequence[int], kept: int | None) -> dict[str, np.ndarray]:
    """Each metric's (P,) values; those that the best `kept` images of each POI (None: all) cannot tell are left out."""
    values = {f"recall@{k}": hits(own, k) for k in ks if kept is None or k <= kept}
    if kept is None:
        values |= {"MRR": reciprocal_ranks(own), "nDCG@10": ndcg(own, 10)}
    return values


def comparison(results: Sequence[RecallScores], ks: Sequence[int]) -> list[list[str]]:
    """The table's rows: coverage, then the metrics by ids and by names; with two results also their difference."""
    first = results[0]
    names = dict(zip(first.poi_ids, first.poi_names, strict=True))
    by_id = [dict(zip(result.poi_ids, own_images(result), strict=True)) for result in results]
    strict = [[own[poi] for poi in names] for own in by_id]
    files = [set(map(file_name, result.images)) for result in results]
    merged = [merge_names(result, names) for result in results]
    rows = [
        ["", *(f"[{number}]" for number in range(1, len(results) + 1)), *(["[2] - [1]"] * (len(results) == 2))],
        ["POIs", *(f"{len(result.poi_ids):,}" for result in results)],
        ["  with an own image", *(f"{len(names.keys() & set(result.owner_ids)):,}" for result in results)],
        ["images", *(f"{len(result.images):,}" for result in results)],
        ["  also in [1]", *(f"{len(files[0] & each):,}" for each in files)],
        ["  scored for each POI", *(f"{len(result.rows[0]):,}" for result in results)],
    ]
    for title, owns in (("by id", strict), (f"POIs of one name merged: {len(merged[0]):,}", merged)):
        rows.append([title])
        kept = [len(result.rows[0]) if result.truncated else None for result in results]
        columns = [metrics(own, ks, most) for own, most in zip(owns, kept, strict=True)]
        if len(columns) == 2:
            mine, other = columns
            columns.append({name: other[name] - mine[name] for name in mine if name in other})
        rows += metric_rows(columns, [f"recall@{k}" for k in ks] + ["MRR", "nDCG@10"], differences=len(results) == 2)
    return rows


def metric_rows(columns: list[dict[str, np.ndarray]], names: list[str], differences: bool) -> list[list[str]]:
    """A row for each metric with means and their intervals, all columns over the same resamples of the POIs."""
    keys = [(column, name) for column, values in enumerate(columns) for name in values]
    values = np.column_stack([columns[column][name] for column, name in keys])  # (P, M)
    low, high = bootstrap_interval(values)
    cells = {}
    for (column, name), *numbers in zip(keys, values.mean(0), low, high, strict=True):
        sign = "+" if differences and column == len(columns) - 1 else ""
        cells[column, name] = "{:{s}.3f} [{:{s}.3f}, {:{s}.3f}]".format(*numbers, s=sign)
    return [["  " + name, *(cells.get((column, name), "-") for column in range(len(columns)))] for name in names]


def write_per_poi(path: str | Path, results: Sequence[RecallScores]) -> None:
    """A row for each result and POI: how many own images it has, and the rank, path and score of the first."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(PER_POI_FIELDS)
        for result in results:
            for poi_id, name, own in zip(result.poi_ids, result.poi_names, own_images(result), strict=True):
                found = ["", "", ""]
                if len(own.ranks):
                    row = own.rows[0]
                    found = [own.ranks[0], result.images[result.image[row]], f"{result.score[row]:.9g}"]
                writer.writerow([result.path, poi_id, name, len(own.ranks), *found])

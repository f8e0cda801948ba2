"""The results of select_images.py: a CSV with one row for each item and listed image, and a page to look at."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from .files import replacing
from .pages import write_page, write_thumbnails
from .selection import Selection

HEADER = (
    *("item_id", "image_path", "verdict", "click_rank", "click_score", "recall_rank", "recall_score"),
    *("candidates", "chosen", "below_threshold", "beyond_recall_k"),  # of the whole item, the same in all its rows
)


def write_selections(path: str | Path, selections: Iterable[Selection], image_paths: Sequence[str]) -> int:
    """Write the CSV and return how many rows it has.  An item with no image to list has one row, its verdict `none`."""
    rows = 0
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for selection in selections:
            counts = selection.candidates, selection.chosen, selection.below_threshold, selection.beyond_recall_k
            listed = [
                (image_paths[index], verdict, click_rank, digits(click), recall_rank, digits(cosine))
                for index, verdict, click_rank, click, recall_rank, cosine in selection.choices
            ]
            for row in listed or [("", "none", "", "", "", "")]:
                writer.writerow([selection.item.item_id, *row, *counts])
                rows += 1
    return rows


def write_selection_page(path: str | Path, selections: Sequence[Selection], images: Sequence[Path], rule: str) -> None:
    """A page with every item's images, and the `rule` by which they were chosen; thumbnails go beside it."""
    listed = sorted({choice.index for selection in selections for choice in selection.choices})
    thumbnails = write_thumbnails(path, [images[index] for index in listed])
    content = {
        "title": f"Images of {len(selections):,} items" if len(selections) > 1 else "Images of one item",
        "rule": rule,
        "search": "search titles, POIs, ids",
        "misses": "items without an image",
        "selections": selections,
        "names": {index: images[index].name for index in listed},
        "thumbnails": {index: thumbnails[images[index]] for index in listed},
    }
    write_page(path, "selection.html", **content)


def digits(score: float | None) -> str:
    """Nine digits are every float32 exactly; an image without a score has none."""
    return "" if score is None else f"{score:.9g}"

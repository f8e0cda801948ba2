"""The items that images are chosen for, and the CSV that lists them."""

import csv
from pathlib import Path
from typing import NamedTuple

from .errors import InputError
from .poi import item_text
from .tables import csv_rows, text_lines

SEPARATOR = "|"  # between the names of an item's own images; no file name may hold it


class Item(NamedTuple):
    """What is known of an item: its title, its POIs, or both."""

    item_id: str
    title: str
    poi_names: str  # separated by commas
    images: tuple[str, ...] = ()  # the file names it can choose from; none: every image of the folder

    @property
    def text(self) -> str:
        """What its images are recalled by: its POI names as they are, or its title where it has none."""
        return item_text(self.title, self.poi_names)


def read_items(path: str | Path) -> list[Item]:
    """The items of a CSV with the header `item_id,title,poi_names`, or `item_id,title,poi_names,images`.

    InputError names the line that is malformed, repeats an id, or has neither a title nor POI names.
    """
    header = tuple(next(csv.reader([next(text_lines(path), "")]), ()))
    if header not in (Item._fields[:3], Item._fields):
        raise InputError(f"{path}, line 1: the header must be {','.join(Item._fields[:3])}, with or without ,images")
    rows = csv_rows(path, header)
    next(rows)
    items, lines = [], {}
    for line, (item_id, title, poi_names, *images) in rows:
        if not item_id.strip():
            raise InputError(f"{path}, line {line}: the item has no id")
        if item_id in lines:
            raise InputError(f"{path}, line {line}: item {item_id} is in line {lines[item_id]} already")
        lines[item_id] = line
        title, poi_names = (text if text.strip() else "" for text in (title, poi_names))
        if not (title or poi_names):
            raise InputError(f"{path}, line {line}: item {item_id} has neither a title nor POI names")
        names = [name.strip() for name in "".join(images).split(SEPARATOR)]
        items.append(Item(item_id, title, poi_names, tuple(filter(None, names))))
    if not items:
        raise InputError(f"{path}: no items after the header")
    return items

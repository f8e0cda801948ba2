"""The two released tables.  Formats: SPEC of the release, described with examples in data/README.md."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from .errors import InputError

SEPARATOR = "$record$"


class PoiImage(NamedTuple):
    """A row of the recall table: one image of one POI."""

    poi_id: str
    poi_name: str
    image_url: str
    rank_number: str
    width: str
    height: str
    extend: str


class Pair(NamedTuple):
    """A row of the ranking table: two images of one item and which was clicked more often."""

    item_id: str
    url_a: str
    url_b: str
    ctr_a: float
    ctr_b: float
    title: str
    cate_name: str
    oss_url: str  # the durable copy of image a
    oss_url2: str  # the durable copy of image b
    poi_names: str  # separated by commas, may be empty

    @property
    def image_a(self) -> str:
        """The file name of image a in the image folder."""
        return url_file_name(self.oss_url)

    @property
    def image_b(self) -> str:
        """The file name of image b in the image folder."""
        return url_file_name(self.oss_url2)

    @property
    def label(self) -> bool:
        """Whether image a was clicked more often than image b."""
        return self.ctr_a > self.ctr_b


def text_lines(path: str | Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends.  InputError names the file, and the line that is not UTF-8."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(f"{path}, line {number}: not UTF-8; save the file as UTF-8") from error
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; download_release.py fetches the released ones, data/README.md describes each"
        ) from error


def csv_rows(path: str | Path, fields: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(line number, row) of a comma-separated file; blank lines left out.  InputError if a row has other fields."""
    reader = csv.reader(text_lines(path), strict=True)
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != len(fields):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(row)} fields instead of {len(fields)} ({','.join(fields)})"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def read_recall_table(path: str | Path) -> list[PoiImage]:
    """All rows of the recall table.  InputError for an empty file, a malformed row, or an id that is no file name."""
    rows = []
    for line, row in csv_rows(path, PoiImage._fields):
        entry = PoiImage(*row)
        for key in ("poi_id", "rank_number"):  # together they become the file name {poi_id}_{rank_number}
            value = getattr(entry, key)
            if not value or "_" in value or not is_file_name(value):
                raise InputError(f"{path}, line {line}: {key} {value!r} cannot be part of a file name")
        if not entry.poi_name.strip():
            raise InputError(f"{path}, line {line}: the POI has no name")
        rows.append(entry)
    if not rows:
        raise InputError(f"{path}: the table is empty")
    return rows


def poi_names(rows: list[PoiImage]) -> dict[str, str]:
    """Each POI's id and name, in the order of the table; the first name of an id counts."""
    names = {}
    for row in rows:
        names.setdefault(row.poi_id, row.poi_name)
    return names


def read_pairs(path: str | Path) -> tuple[list[Pair], list[str]]:
    """The usable rows of the ranking table, and for each row left out a line that says where and why."""
    pairs, left_out = [], []
    for number, line in enumerate(text_lines(path), 1):
        line = line.rstrip("\r\n")
        if not line:
            continue
        try:
            pairs.append(parse_pair(line))
        except ValueError as error:
            left_out.append(f"line {number}: {error}")
    if not pairs:
        reason = f"; {left_out[0]}" if left_out else "; the table is empty"
        raise InputError(f"{path}: no usable pair{reason}")
    return pairs, left_out


def parse_pair(line: str) -> Pair:
    """One row of the ranking table.  ValueError says what is wrong with it."""
    fields = line.split(SEPARATOR)
    if len(fields) != len(Pair._fields):
        raise ValueError(f"{len(fields)} fields instead of {len(Pair._fields)} between {SEPARATOR}")
    pair = Pair(*fields)
    try:
        ctr_a, ctr_b = float(pair.ctr_a), float(pair.ctr_b)
    except ValueError:
        raise ValueError(f"item {pair.item_id}: click rates {pair.ctr_a!r} and {pair.ctr_b!r} are no numbers") from None
    if not (math.isfinite(ctr_a) and math.isfinite(ctr_b)):
        raise ValueError(f"item {pair.item_id}: click rates {pair.ctr_a!r} and {pair.ctr_b!r} are not finite")
    if ctr_a == ctr_b:
        raise ValueError(f"item {pair.item_id}: equal click rates, nothing to predict")
    pair = pair._replace(ctr_a=ctr_a, ctr_b=ctr_b)
    url_file_name(pair.oss_url), url_file_name(pair.oss_url2)
    return pair


def url_file_name(url: str) -> str:
    """The last part of an address's path.  ValueError where that is no plain file name."""
    name = PurePosixPath(urlsplit(url).path).name
    if not is_file_name(name):
        raise ValueError(f"address {url!r} ends in no file name")
    return name


def is_file_name(text: str) -> bool:
    """Whether `text` names a visible file inside a folder, on any system."""
    return bool(text) and not text.startswith(".") and text.isprintable() and not set(text) & set('/\\:*?"<>|')

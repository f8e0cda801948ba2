"""The gallery of stage 1's result: each POI's best images as a page, to judge recall by looking."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .pages import THUMBNAIL, write_page, write_thumbnails
from .recall_results import RecallScores, file_name
from .script import ROOT, from_here

FOLD = 120  # images of one text that a browser lays out at a time; whole rows, whether of 8, 6, 5, 4 or 3


class Match(NamedTuple):
    """An image in the order of a POI's scores."""

    rank: int  # from 1
    image: int  # index into RecallScores.images
    score: float
    own: bool
    owner: str  # the name of the POI that the image belongs to; its id where the result does not name it


class Card(NamedTuple):
    """What the gallery shows of one POI."""

    poi_id: str
    name: str
    hit: bool
    first_own: int | None  # the rank of its best own image, if the result holds one
    matches: list[Match]  # best first
    whole: bool  # whether these are all its images, in folds


def write_gallery(
    page: str | Path,
    scores: RecallScores,
    top_k: int = 10,
    recall_k: int = 5,
    text: str | None = None,
    image_dir: str | None = None,
    thumbnail_size: int = THUMBNAIL,
) -> list[str]:
    """Write the page and its thumbnails; returns the images shown that are not there any more, or unreadable.

    A POI is a hit where an own image is among its `recall_k` best.  Each shows its `top_k` best images; those named
    `text` come first and show all of theirs.
    """
    cards = make_cards(scores, top_k, recall_k, text)
    shown = dict.fromkeys(match.image for card in cards for match in card.matches)
    places = {index: locate(scores.images[index], image_dir) for index in shown}
    thumbnails = write_thumbnails(page, places.values(), thumbnail_size)
    gone = [scores.images[index] for index, place in places.items() if not thumbnails[place]]
    content = {
        "title": "Recall gallery",
        "search": "search POI names, ids",
        "misses": "misses only",
        "cards": cards,
        "hits": sum(card.hit for card in cards),
        "recall_k": recall_k,
        "text": text,
        "fold": FOLD,
        "source": from_here(os.path.abspath(scores.path)),
        "total": len(scores.images),
        "kept": len(scores.rows[0]) if scores.truncated else None,
        "gone": len(gone),
        "shown": len(shown),
        "names": {index: file_name(scores.images[index]) for index in shown},
        "thumbnails": {index: thumbnails[place] for index, place in places.items()},
    }
    write_page(page, "recall_gallery.html", **content)
    return gone


def make_cards(scores: RecallScores, top_k: int, recall_k: int, text: str | None) -> list[Card]:
    """A card for each POI in the order of the file, but those named `text` first."""
    index = {poi_id: number for number, poi_id in enumerate(scores.poi_ids)}
    owner = np.array([index.get(poi_id, -1) for poi_id in scores.owner_ids])  # (I,)
    cards = []
    for number, (poi_id, name, rows) in enumerate(zip(scores.poi_ids, scores.poi_names, scores.rows, strict=True)):
        rows = rows[np.argsort(-scores.score[rows], kind="stable")]  # of equal scores the first is better
        own = np.flatnonzero(owner[scores.image[rows]] == number)
        first_own = int(own[0]) + 1 if len(own) else None
        whole = name == text
        matches = []
        for rank, row in enumerate(rows[: None if whole else top_k], 1):
            image = int(scores.image[row])
            of = owner[image]
            label = scores.poi_names[of] if of >= 0 else scores.owner_ids[image]
            matches.append(Match(rank, image, float(scores.score[row]), of == number, label))
        cards.append(Card(poi_id, name, first_own is not None and first_own <= recall_k, first_own, matches, whole))
    return sorted(cards, key=lambda card: not card.whole)


def locate(image_path: str, image_dir: str | None = None) -> Path:
    """Where an image of a result should be: under its name in `image_dir`, else as it stands, else in this project."""
    if image_dir:
        return Path(image_dir, file_name(image_path))
    return Path(image_path) if os.path.isfile(image_path) else ROOT / image_path


def nearest_names(text: str, names: Sequence[str]) -> list[str]:
    """The three names that look most like `text`."""
    from difflib import get_close_matches

    return get_close_matches(text, dict.fromkeys(names), n=3, cutoff=0)

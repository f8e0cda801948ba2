"""Training data of the recall model: text–image pairs, the knowledge graph's triples, and batches of both."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .align import AlignModel
from .augment import augment_recall, leave
from .errors import InputError
from .images import ImageError, read_image
from .loading import TwoTower, num_cores
from .script import progress
from .tables import csv_rows
from .training import seed_of

RELATIONS = AlignModel.RELATIONS


class TextImage(NamedTuple):
    """A row of the pairs CSV."""

    text: str
    image: str  # a path in the image folder


class Triple(NamedTuple):
    """A row of the triples CSV; the tail of has_image is a path in the image folder, of the others a text."""

    head: str
    relation: str
    tail: str

    @property
    def image(self) -> str | None:
        return self.tail if self.relation == "has_image" else None


def read_text_images(path: str | Path) -> list[TextImage]:
    """All rows of the pairs CSV, with or without a header line."""
    return [TextImage(*row) for _, row in rows_below_header(path, TextImage._fields)]


def read_triples(path: str | Path) -> list[Triple]:
    """All rows of the triples CSV, with or without a header line.  InputError for an unknown relation."""
    triples = []
    for line, row in rows_below_header(path, Triple._fields):
        triple = Triple(*row)
        if triple.relation not in RELATIONS:
            raise InputError(
                f"{path}, line {line}: unknown relation {triple.relation!r}; there are {', '.join(RELATIONS)}"
            )
        triples.append(triple)
    return triples


def rows_below_header(path: str | Path, fields: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    rows = [(line, row) for line, row in csv_rows(path, fields) if tuple(row) != fields]
    for line, row in rows:
        if empty := [field for field, value in zip(fields, row, strict=True) if not value.strip()]:
            raise InputError(f"{path}, line {line}: {empty[0]} is empty")
    if not rows:
        raise InputError(f"{path}: holds no row of {','.join(fields)}")
    return iter(rows)


def unreadable_images(image_dir: str | Path, names: Sequence[str]) -> dict[str, str]:
    """Of the images named, those that are missing or cannot be decoded, and why: every one is decoded once."""

    def reason(name: str) -> str | None:
        try:
            read_image(Path(image_dir, name))
        except ImageError as error:
            return str(error)

    names = list(dict.fromkeys(names))
    with ThreadPoolExecutor(num_cores()) as pool:
        reasons = progress(pool.map(reason, names), total=len(names), desc="checking images", unit="image")
        return {name: reason for name, reason in zip(names, reasons, strict=True) if reason}


def check_contrast(triples: Sequence[Triple], path: str | Path) -> None:
    """InputError where a head has every tail of its relation, so that no wrong one is left for the loss."""
    tails = {
        relation: len({triple.tail for triple in triples if triple.relation == relation}) for relation in RELATIONS
    }
    for (head, relation), own in Counter((triple.head, triple.relation) for triple in dict.fromkeys(triples)).items():
        if own == tails[relation]:
            raise InputError(f"{path}: {head!r} has every tail of {relation}; a wrong one is needed for the loss")


class AlignBatches(torch.utils.data.Dataset):
    """Step -> batch of one process, a function of (seed, step) alone, so that training can go on from any step.

    Each epoch goes through the pairs in a new order; a batch (that of all processes together) holds no text twice as
    long as enough texts are left.  With triples, `triple_batch` of them, drawn at random, come with each batch.
    """

    def __init__(
        self,
        pairs: Sequence[TextImage],
        triples: Sequence[Triple],
        image_dir: str | Path,
        towers: TwoTower,
        augment: bool,
        batch_size: int,
        triple_batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.pairs, self.triples, self.image_dir = pairs, triples, Path(image_dir)
        self.tokenize, self.preprocess = towers.tokenize, towers.preprocess
        self.augment = augment_recall if augment else leave
        self.batch_size, self.triple_batch = batch_size, triple_batch if triples else 0
        self.seed, self.rank, self.world = seed, rank, world
        self.per_epoch = len(pairs) // (batch_size * world)
        self.true = set(triples)
        self.tails = {name: list({t.tail: None for t in triples if t.relation == name}) for name in RELATIONS}
        self.order = (-1, [])  # the epoch that was asked for last, and its batches

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of all processes together, as indices of pairs."""
        if self.order[0] != number:
            generator = torch.Generator().manual_seed(seed_of(self.seed, 0, number))
            order = torch.randperm(len(self.pairs), generator=generator).tolist()
            texts = [pair.text for pair in self.pairs]
            self.order = number, list(distinct_batches(texts, order, self.batch_size * self.world))
        return self.order[1]

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """The images and texts of the pairs come first, then those of the triples.

        images (I, 3, H, W); input_ids, attention_mask (T, L); relations (M,); heads (M,), rows of the texts; tails and
        wrong_tails (M,), rows of the texts followed by the images.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, 1, step, self.rank))
            start = self.rank * self.batch_size
            chosen = self.epoch(step // self.per_epoch)[step % self.per_epoch][start : start + self.batch_size]
            pairs = [self.pairs[index] for index in chosen]
            texts, images = [pair.text for pair in pairs], [pair.image for pair in pairs]
            triples = [self.triples[i] for i in torch.randint(max(1, len(self.triples)), (self.triple_batch,))]
            wrong = [self.wrong_tail(triple) for triple in triples]
            texts += dict.fromkeys(t.head for t in triples)
            texts += dict.fromkeys(t.tail for t in triples + wrong if not t.image)
            images += dict.fromkeys(t.tail for t in triples + wrong if t.image)
            batch = self.tokenize(texts) | {"images": torch.stack([self.pixels(name) for name in images])}
        text_row = {text: row for row, text in enumerate(texts)}
        image_row = {image: len(texts) + row for row, image in enumerate(images)}
        return batch | {
            "relations": torch.tensor([RELATIONS.index(t.relation) for t in triples], dtype=torch.long),
            "heads": torch.tensor([text_row[t.head] for t in triples], dtype=torch.long),
            "tails": torch.tensor([(image_row if t.image else text_row)[t.tail] for t in triples], dtype=torch.long),
            "wrong_tails": torch.tensor(
                [(image_row if t.image else text_row)[t.tail] for t in wrong], dtype=torch.long
            ),
        }

    def wrong_tail(self, triple: Triple) -> Triple:
        """The triple with another tail of its relation, of which it is not known to be true."""
        tails = self.tails[triple.relation]
        while True:
            wrong = triple._replace(tail=tails[torch.randint(len(tails), ())])
            if wrong not in self.true:
                return wrong

    def pixels(self, name: str) -> Tensor:
        try:
            image = read_image(self.image_dir / name)
        except ImageError as error:
            raise InputError(f"{self.image_dir / name}: {error}") from error
        return self.preprocess(self.augment(image))


def distinct_batches(texts: Sequence[str], order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cut `order` into batches of `size` in which no text stands twice, as long as enough texts are left.

    What had to wait comes first in the next batch, one of each text.  What is left at the end is less than a batch.
    """
    coming, waiting = deque(order), {}  # waiting: text -> its pairs
    for _ in range(len(order) // size):
        waiting = {text: indices for text, indices in waiting.items() if indices}
        batch = {text: waiting[text].popleft() for text in islice(waiting, size)}
        while coming and len(batch) < size:
            index = coming.popleft()
            if texts[index] in batch:
                waiting.setdefault(texts[index], deque()).append(index)
            else:
                batch[texts[index]] = index
        left = chain.from_iterable([text] * len(indices) for text, indices in waiting.items())
        repeated = [waiting[text].popleft() for text in list(islice(left, size - len(batch)))]
        yield [*batch.values(), *repeated]

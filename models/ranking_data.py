"""Training data of the ranking model: pairs whose images can be read, their vectors, and the batches of each epoch."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from .augment import augment_ranking
from .encode import encode_images, encode_texts
from .errors import InputError
from .images import ImageError, read_image
from .loading import TwoTower
from .pairs_data import unreadable_images
from .poi import item_text
from .script import listing
from .tables import Pair, read_pairs
from .training import seed_of


def usable_pairs(table: str | Path, image_dir: str | Path) -> list[Pair]:
    """The pairs of a table whose images can both be read; everything left out is listed.  InputError if none is."""
    rows, refused = read_pairs(table)
    listing(f"rows of {table} left out", refused)
    bad = unreadable_images(image_dir, image_names(rows))
    listing(f"images of {table} that are missing or cannot be read", [f"{name}: {bad[name]}" for name in bad])
    pairs = [pair for pair in rows if pair.image_a not in bad and pair.image_b not in bad]
    print(f"{table}: {len(pairs):,} of {len(rows) + len(refused):,} pairs are used", flush=True)
    if not pairs:
        raise InputError(
            f"{image_dir}: both images can be read of none of the pairs in {table}; run download_images.py for them"
        )
    return pairs


def image_names(pairs: Iterable[Pair]) -> list[str]:
    """The distinct images of some pairs, in their order."""
    return list(dict.fromkeys(name for pair in pairs for name in (pair.image_a, pair.image_b)))


class EncodedPairs(NamedTuple):
    """Pairs, and the vectors (D,) that the frozen recall model gives: computed once."""

    pairs: Sequence[Pair]
    image_vectors: dict[str, Tensor]  # by file name
    text_vectors: dict[str, Tensor]  # by `item_text`

    @classmethod
    def encode(cls, towers: TwoTower, pairs, image_dir, precision: str, images: bool = True) -> "EncodedPairs":
        """The vectors just as local_eval_test.py computes them; those of the images only if `images`."""
        texts = encode_texts(towers, (item_text(pair.title, pair.poi_names) for pair in pairs), precision=precision)
        if not images:
            return cls(pairs, {}, texts)
        paths = [Path(image_dir, name) for name in image_names(pairs)]
        encoded = encode_images(towers, paths, precision=precision)
        for path, reason in encoded.failed:
            raise InputError(f"{path}: {reason}, though it could be read a moment ago")
        return cls(pairs, {path.name: vector for path, vector in zip(paths, encoded.vectors, strict=True)}, texts)


class PairBatches(torch.utils.data.Dataset):
    """Step -> batch, a function of (seed, step) alone, so that training can go on from any step.

    Each epoch goes through the pairs in a new order; what is left at its end is less than a batch, and dropped.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        batch_size: int,
        seed: int,
        augmented: tuple[str | Path, Callable[[Image.Image], Tensor]] | None = None,
    ):
        """With `augmented`, an image folder and the preprocessing, a batch comes with its pixels."""
        self.pairs, self.batch_size, self.seed, self.augmented = pairs, batch_size, seed, augmented
        self.per_epoch = len(pairs) // batch_size

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """rows (B,) of the pairs; with augmentation images (2B, 3, H, W), first all images a, then all images b."""
        epoch, place = divmod(step, self.per_epoch)
        generator = torch.Generator().manual_seed(seed_of(self.seed, 0, epoch))
        rows = torch.randperm(len(self.pairs), generator=generator)[place * self.batch_size :][: self.batch_size]
        if not self.augmented:
            return {"rows": rows}
        pairs = [self.pairs[row] for row in rows.tolist()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, 1, step))
            names = [pair.image_a for pair in pairs] + [pair.image_b for pair in pairs]
            return {"rows": rows, "images": torch.stack([self.pixels(name) for name in names])}

    def pixels(self, name: str) -> Tensor:
        image_dir, preprocess = self.augmented
        try:
            return preprocess(augment_ranking(read_image(Path(image_dir, name))))
        except ImageError as error:
            raise InputError(f"{Path(image_dir, name)}: {error}") from error

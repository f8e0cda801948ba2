"""What is known of POIs: how many images each has, and its image and name vectors.  Chooses an item's best five."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .files import replacing
from .safe_pickle import load_pickled_npy

MAX_POIS = 5
COUNT_WEIGHTS = (1, 5, 3)  # of a POI's three image counts, in the rule that chooses the best five


@dataclass(frozen=True)
class PoiKnowledge:
    """Three dicts over POI names.  What is not in them counts 0, and has zeros for a vector."""

    image_vectors: dict[str, Tensor]  # (D,): the mean of a POI's image vectors
    name_vectors: dict[str, Tensor]  # (D,)
    counts: dict[str, tuple[float, float, float]]  # the release's three image counts
    dim: int  # D

    @classmethod
    def load(cls, image_vectors: str | Path, name_vectors: str | Path, counts: str | Path, dim: int) -> "PoiKnowledge":
        """From the released three `.npy` files, or from the `.npz` that `save` writes, given as `image_vectors` alone.

        `dim` is the length of the model's vectors.  InputError names the file and the POI that is wrong.
        """
        if Path(image_vectors).suffix == ".npz":
            paths = [image_vectors] * 3
            raw = load_npz(image_vectors)
        else:
            paths = [image_vectors, name_vectors, counts]
            raw = [load_pickled_npy(existing(path)) for path in paths]
        images, names, numbers = (
            checked(content, path, length) for content, path, length in zip(raw, paths, (dim, dim, 3), strict=True)
        )
        return cls(
            {name: torch.from_numpy(vector) for name, vector in images.items()},
            {name: torch.from_numpy(vector) for name, vector in names.items()},
            {name: tuple(values.tolist()) for name, values in numbers.items()},
            dim,
        )

    def save(self, path: str | Path) -> None:
        """Write the `.npz`: plain arrays, no pickle, whole or not at all."""
        arrays = {
            "image_names": np.array(list(self.image_vectors), dtype=str),  # (N,)
            "image_vectors": stacked(self.image_vectors.values(), self.dim),  # (N, D)
            "name_names": np.array(list(self.name_vectors), dtype=str),
            "name_vectors": stacked(self.name_vectors.values(), self.dim),
            "count_names": np.array(list(self.counts), dtype=str),
            "counts": np.array(list(self.counts.values()), dtype=np.float32).reshape(-1, 3),
        }
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, **arrays)

    def best(self, poi_names: str) -> list[str]:
        """The names of an item that are used: of those with most images the first five, ties in their order."""
        if len(poi_names) <= 1:
            return []
        return sorted(poi_names.split(","), key=self.prominence, reverse=True)[:MAX_POIS]

    def prominence(self, name: str) -> float:
        """n0 + 5·n1 + 3·n2; the release strips the name here, and only here."""
        counts = self.counts.get(name.strip(), (0, 0, 0))
        return sum(weight * count for weight, count in zip(COUNT_WEIGHTS, counts, strict=True))

    def features(self, poi_names: str) -> tuple[Tensor, Tensor, int]:
        """Image and name vectors (5, D) each of an item's best POIs, zeros where there are none, and how many names."""
        best = self.best(poi_names)
        images, names = torch.zeros(2, MAX_POIS, self.dim)
        for index, name in enumerate(best):
            if name in self.image_vectors:
                images[index] = self.image_vectors[name]
            if name in self.name_vectors:
                names[index] = self.name_vectors[name]
        return images, names, len(best)

    def without_vector(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that lack the image vector or the name vector."""
        return [name for name in names if name not in self.image_vectors or name not in self.name_vectors]


def item_text(title: str, poi_names: str) -> str:
    """The text whose vector stands for an item: its POI names as they are, or its title where it has none."""
    return poi_names or title


def stacked(vectors: Iterable[Tensor], dim: int) -> np.ndarray:
    """(N, dim) float32, also for N = 0."""
    return torch.stack([torch.zeros(dim), *vectors])[1:].numpy()


def existing(path: str | Path) -> str | Path:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; run download_release.py --what poi, or build_poi_vectors.py")
    return path


def load_npz(path: str | Path) -> list[dict[str, np.ndarray]]:
    """Image vectors, name vectors and counts by name, from the file that `PoiKnowledge.save` writes."""
    existing(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [(file["image_names"], file["image_vectors"]), (file["name_names"], file["name_vectors"])]
            arrays.append((file["count_names"], file["counts"]))
        if any(names.dtype.kind != "U" or names.ndim != 1 for names, _ in arrays):
            raise ValueError("names that are no text")
        return [dict(zip(names.tolist(), values, strict=True)) for names, values in arrays]
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        raise InputError(f"{path}: no .npz of POI vectors, or damaged; make it with build_poi_vectors.py") from error


def checked(content: Any, path: str | Path, length: int) -> dict[str, np.ndarray]:
    """A dict of names and `length` finite numbers each, as float32.  InputError says what is wrong."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path}: no dict of POI names; is it one of the release's POI files?")
    vectors = {}
    for name, values in content.items():
        try:
            values = values.float().numpy() if isinstance(values, Tensor) else values
            vector = np.array(values, dtype=np.float32).reshape(-1)
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise InputError(f"{path}: what it has for {name!r} are no numbers") from error
        if len(vector) != length:
            raise InputError(f"{path}: {len(vector)} numbers for {name!r} instead of {length}")
        if not np.isfinite(vector).all():
            raise InputError(f"{path}: NaN or infinite numbers for {name!r}")
        vectors[str(name)] = vector
    return vectors

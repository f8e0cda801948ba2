"""recall@K and its kin, from the ranks of each POI's own images.

For each POI all images are ordered by score, highest first; of equal scores the one that stands first in the file comes
first.  An image is the POI's own if its file name says so.  All metrics are means over the POIs, and a POI without any
own image counts 0 in each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .recall_results import RecallScores

RESAMPLES = 5000


class OwnImages(NamedTuple):
    """The own images of one POI, best first."""

    ranks: np.ndarray  # counted from 1
    rows: np.ndarray  # where they stand in the result


def own_images(
    scores: RecallScores, poi_labels: Sequence[str] | None = None, owner_labels: Sequence[str] | None = None
) -> list[OwnImages]:
    """For each POI its own images: those whose owner's label equals its own.  Labels are ids, if none are given."""
    poi_labels = scores.poi_ids if poi_labels is None else poi_labels
    owner_labels = scores.owner_ids if owner_labels is None else owner_labels
    index = {label: number for number, label in enumerate(dict.fromkeys(poi_labels))}
    owner = np.array([index.get(label, -1) for label in owner_labels])  # (I,)
    found = []
    for label, rows in zip(poi_labels, scores.rows, strict=True):
        score = scores.score[rows]  # (n,)
        own = np.flatnonzero(owner[scores.image[rows]] == index[label])
        # A rank needs no sorting: one more than how many are better, or as good and earlier in the file.
        ranks = [1 + np.count_nonzero(score > score[i]) + np.count_nonzero(score[:i] == score[i]) for i in own]
        best_first = np.argsort(ranks)
        found.append(OwnImages(np.array(ranks, np.int64)[best_first], rows[own][best_first]))
    return found


def recall_at_k(scores: RecallScores, k: int = 5) -> float:
    """The share of POIs that have at least one own image among the K images with the highest scores."""
    return float(hits(own_images(scores), k).mean())


def hits(own: list[OwnImages], k: int) -> np.ndarray:
    """(P,) 1 where at least one own image is among the POI's K best, else 0.  Their mean is recall@K, or hit rate."""
    return np.array([float(np.any(poi.ranks <= k)) for poi in own])


def reciprocal_ranks(own: list[OwnImages]) -> np.ndarray:
    """(P,) 1 / rank of the first own image.  Their mean is the MRR."""
    return np.array([1 / poi.ranks[0] if len(poi.ranks) else 0.0 for poi in own])


def ndcg(own: list[OwnImages], k: int = 10) -> np.ndarray:
    """(P,) the sum of 1 / log2(1 + rank) over own images among the K best, divided by the best it could be."""
    discounts = 1 / np.log2(1 + np.arange(1, k + 1))
    best = np.cumsum(discounts)  # of 1, 2, … own images
    gains = [discounts[poi.ranks[poi.ranks <= k] - 1].sum() for poi in own]
    return np.array([gain / best[min(len(poi.ranks), k) - 1] for gain, poi in zip(gains, own, strict=True)])


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % intervals of means over POIs, (P,) or (P, M): percentiles over resamples with replacement."""
    generator, count = np.random.default_rng(seed), len(values)
    uniform = np.full(count, 1 / count)
    means = [generator.multinomial(count, uniform) @ values / count for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high

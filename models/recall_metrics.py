"""recall@K and its kin, from the ranks of each POI's own images.

For each POI all images are ordered by score, highest first; of equal scores the one that stands first in the file comes
first.  An image is the POI's own if its file name says so.
"""

from collections.abc import Sequence

import numpy as np

from .recall_results import RecallScores


def own_ranks(scores: RecallScores, poi_labels: Sequence[str] | None = None, owner_labels=None) -> list[np.ndarray]:
    """For each POI the ranks of its own images, best first, counted from 1; empty where it has none.

    An image is a POI's own where its owner's label equals the POI's: their ids, if nothing else is given.
    """
    poi_labels = scores.poi_ids if poi_labels is None else poi_labels
    owner_labels = scores.owner_ids if owner_labels is None else owner_labels
    index = {label: number for number, label in enumerate(dict.fromkeys(poi_labels))}
    owner = np.array([index.get(label, -1) for label in owner_labels])  # (I,)
    ranks = []
    for label, rows in zip(poi_labels, scores.rows, strict=True):
        score = scores.score[rows]  # (n,)
        own = np.flatnonzero(owner[scores.image[rows]] == index[label])
        # A rank needs no sorting: one more than how many are better, or as good and earlier in the file.
        rank = [1 + np.count_nonzero(score > score[i]) + np.count_nonzero(score[:i] == score[i]) for i in own]
        ranks.append(np.sort(np.array(rank, np.int64)))
    return ranks


def hits(ranks: list[np.ndarray], k: int) -> np.ndarray:
    """(P,) 1 where at least one own image is among a POI's K best, else 0.  Their mean is recall@K, or hit rate."""
    return np.array([float(len(own) > 0 and own[0] <= k) for own in ranks])


def recall_at_k(scores: RecallScores, k: int = 5) -> float:
    """The share of POIs that have at least one own image among the K images with the highest scores."""
    return float(hits(own_ranks(scores), k).mean())


def bootstrap_interval(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over POIs: its percentiles over seeded resamples of the POIs with replacement."""
    generator = np.random.default_rng(seed)
    uniform = np.full(len(values), 1 / len(values))
    means = [generator.multinomial(len(values), uniform) @ values / len(values) for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

"""Stage 2's metric: how often the image with the higher score is the one that was clicked more."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

NORMAL_95 = 1.959964  # the 97.5 % quantile of the normal distribution


class PairMetrics(NamedTuple):
    """Of some pairs, each with label = image a was clicked more."""

    pairs: int
    auc: float  # see `right`
    interval: tuple[float, float]  # 95 %, of `auc`
    roc_auc: float  # of score_a - score_b against the label; NaN where all labels are the same
    always_b: float  # what always answering "b" would get
    ties: int  # pairs whose scores are equal


def pair_metrics(scores_a: Sequence[float], scores_b: Sequence[float], labels: Sequence[bool]) -> PairMetrics:
    """The metrics of at least one pair."""
    scores_a, scores_b, labels = np.asarray(scores_a), np.asarray(scores_b), np.asarray(labels, dtype=bool)
    hits = right(scores_a, scores_b, labels)
    return PairMetrics(
        pairs=len(hits),
        auc=float(hits.mean()),
        interval=wilson_interval(int(hits.sum()), len(hits)),
        roc_auc=roc_auc(scores_a - scores_b, labels),
        always_b=float((~labels).mean()),
        ties=int((scores_a == scores_b).sum()),
    )


def right(scores_a: np.ndarray, scores_b: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which pairs are predicted right, the prediction being score_a > score_b; equal scores thus answer "b".

    The published "AUC" is the share of them: the AUC within each pair, which is 0 or 1, averaged over the pairs.
    """
    return (scores_a > scores_b) == labels


def wilson_interval(hits: int, count: int, z: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's score interval of a share, which unlike the normal one is right near 0 and 1 and for few pairs."""
    share = hits / count
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return (centre - half) / scale, (centre + half) / scale


def roc_auc(differences: np.ndarray, labels: np.ndarray) -> float:
    """How often the difference of a pair with label 1 is above that of one with label 0, ties half; from their ranks.

    Equal to scikit-learn's roc_auc_score, whose import takes longer than scoring 30 photographs.  NaN where all labels
    are equal.
    """
    ones, zeros = int(labels.sum()), int((~labels).sum())
    if not ones or not zeros:
        return math.nan
    _, place, counts = np.unique(differences, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]  # from 1; the mean rank of those that are equal
    return float((ranks[labels].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def by_category(
    scores_a: Sequence[float],
    scores_b: Sequence[float],
    labels: Sequence[bool],
    categories: Iterable[str],
    least: int = 20,
) -> dict[str, PairMetrics]:
    """The metrics of each category with at least `least` pairs, largest category first."""
    rows: dict[str, list[int]] = {}
    for row, category in enumerate(categories):
        rows.setdefault(category, []).append(row)
    large = sorted((item for item in rows.items() if len(item[1]) >= least), key=lambda item: -len(item[1]))
    columns = np.asarray(scores_a), np.asarray(scores_b), np.asarray(labels, dtype=bool)
    return {category: pair_metrics(*(column[chosen] for column in columns)) for category, chosen in large}

"""Stage 2's metrics against their definitions read out loud, against scikit-learn and scipy, on scores with ties."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, roc_auc_score

from models.ranking_metrics import by_category, pair_metrics


def random_pairs(seed: int, count: int = 200):
    """Scores of one decimal, so that many are equal, and labels that lean towards them."""
    generator = np.random.default_rng(seed)
    a, b = generator.standard_normal((2, count)).round(1)
    return a, b, a - b + generator.standard_normal(count) > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_brute_force_and_scikit_learn(seed):
    a, b, labels = random_pairs(seed)
    metrics = pair_metrics(a.tolist(), b.tolist(), labels.tolist())
    assert metrics.ties == sum(x == y for x, y in zip(a, b, strict=True)) > 0

    right = 0
    for x, y, label in zip(a, b, labels, strict=True):
        answer = "a" if x > y else "b"
        right += answer == ("a" if label else "b")
    assert metrics.auc == right / len(a) == accuracy_score(labels, a > b)
    assert metrics.always_b == sum(not label for label in labels) / len(labels)

    differences = a - b
    above = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high in differences[labels]
        for low in differences[~labels]
    ]
    assert metrics.roc_auc == pytest.approx(np.mean(above)) == pytest.approx(roc_auc_score(labels, differences))

    interval = binomtest(right, len(a)).proportion_ci(0.95, method="wilson")
    assert metrics.interval == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_without_ties_the_auc_is_that_within_each_pair():
    a, b = np.random.default_rng(0).standard_normal((2, 100))
    labels = a + np.random.default_rng(1).standard_normal(100) > b
    within = [roc_auc_score([label, not label], [x, y]) for x, y, label in zip(a, b, labels, strict=True)]
    assert pair_metrics(a, b, labels).auc == np.mean(within)


def test_the_published_interval():
    labels = np.zeros(1000, dtype=bool)
    metrics = pair_metrics(np.arange(1000) >= 652, np.full(1000, 0.5), labels)  # 652 pairs right
    low, high = metrics.interval
    assert metrics.auc == 0.652 and (high - low) / 2 == pytest.approx(0.030, abs=1e-3)


def test_one_pair_and_one_kind_of_label():
    metrics = pair_metrics([1.0], [0.0], [True])
    assert metrics.auc == 1 and metrics.always_b == 0 and math.isnan(metrics.roc_auc)
    assert metrics.interval[0] > 0.1 and metrics.interval[1] == pytest.approx(1)


def test_categories_with_enough_pairs_largest_first():
    a, b, labels = random_pairs(0, 70)
    categories = ["小"] * 19 + ["跟团游"] * 20 + ["酒景套餐"] * 31
    parts = by_category(a, b, labels, categories)
    assert list(parts) == ["酒景套餐", "跟团游"]
    assert parts["跟团游"] == pair_metrics(a[19:39], b[19:39], labels[19:39])

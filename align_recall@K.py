"""Stage 1's metric: recall@K from the result of align_recall_test_with_mmkg_model.py.

    python align_recall@K.py --scores-csv "data/align_recall@k_with_MKG_20221021_poi_500.csv" --recall-k 1 5 10

Reads rows `poi_id,poi_name,image_path,score`, one for each POI and image; what stands before the first `_` of an
image's file name says which POI it belongs to.  A POI is a hit where at least one of its K best images is its own (of
equal scores the first in the file is better); recall@K is the share of hits.  Writes nothing.
"""

CONFIG = {
    "scores_csv": ["data/align_recall@k_with_MKG_20221021_poi_500.csv"],  # one or more results of the recall script
    "recall_k": [5],  # one or more K
}

import sys

from models.errors import InputError
from models.script import run_script


def main(argv=None) -> int:
    return run_script(__name__, argv, evaluate)


def evaluate(config) -> None:
    from models.recall_metrics import bootstrap_interval, hits, own_ranks
    from models.recall_results import read_recall_scores

    if min(config.recall_k) < 1:
        raise InputError(f"recall_k: {min(config.recall_k)} is no number of images; 1 or more is wanted")
    for path in config.scores_csv:
        scores = read_recall_scores(path)
        ranks = own_ranks(scores)
        without = sum(len(own) == 0 for own in ranks)
        print(f"{path}: {len(scores.poi_ids)} POIs, {len(scores.images)} images, {len(scores.score)} pairs")
        print(f"POIs without any own image, which can only miss: {without}")
        for k in config.recall_k:
            kept = len(scores.rows[0])
            if scores.truncated and k > kept:
                raise InputError(f"{path}: holds only the {kept} best images of each POI; recall@{k} needs {k}")
            hit = hits(ranks, k)
            low, high = bootstrap_interval(hit)
            print(f"recall@{k} = {hit.mean():.3f}")
            print(f"  95 % interval {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    sys.exit(main())

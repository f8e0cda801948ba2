"""Stage 1's metric: recall@K from the result of align_recall_test_with_mmkg_model.py, or from several to compare.

    python align_recall@K.py --scores-csv "data/align_recall@k_with_MKG_20221021_poi_500.csv" --recall-k 1 5 10

Reads rows `poi_id,poi_name,image_path,score`, one for each POI and image, or (`top_k`) each POI's best images; what
stands before the first `_` of an image's file name says which POI it belongs to.  A POI is a hit where at least one of
its K best images is its own (of equal scores the first in the file is better); recall@K is the share of hits.

Prints a table of recall@K, MRR and nDCG@10 with 95 % intervals, then `recall@5 = …` for each K.  Writes nothing but
the CSV `per_poi`, if one is named: every POI's first hit.
"""

CONFIG = {
    "scores_csv": ["data/align_recall@k_with_MKG_20221021_poi_500.csv"],  # one or more results of the recall script
    "recall_k": [5],  # one or more K
    "per_poi": None,  # a CSV to write: the rank of each POI's first own image
}

import sys

from models.script import run_script


def main(argv=None) -> int:
    return run_script(__name__, argv, evaluate)


def evaluate(config) -> None:
    from models.files import check_output
    from models.recall_metrics import RESAMPLES, recall_at_k
    from models.recall_results import read_recall_scores
    from models.recall_table import check_comparable, comparison, write_per_poi

    if config.per_poi:
        check_output(config.per_poi)
    results = [read_recall_scores(path) for path in config.scores_csv]
    check_comparable(results, config.recall_k)

    print()
    for number, result in enumerate(results, 1):
        print(f"[{number}] {result.path}")
    rows = comparison(results, sorted({1, 5, 10, *config.recall_k}))
    for label, *cells in rows:
        print(f"{label:24}" + "".join(f"{cell:>25}" for cell in cells))
    print(f"95 % intervals: from {RESAMPLES:,} resamples of the POIs")
    if any("-" in row for row in rows):
        print("-: cannot be told from the best images alone")
    print()
    if config.per_poi:
        write_per_poi(config.per_poi, results)
        print(f"wrote {config.per_poi}")
    for result in results:
        if len(results) > 1:
            print(result.path)
        if without := len(set(result.poi_ids) - set(result.owner_ids)):
            print(f"{without} of {len(result.poi_ids)} POIs have no image here and can only miss")
        for k in config.recall_k:
            print(f"recall@{k} = {recall_at_k(result, k):.3f}")


if __name__ == "__main__":
    sys.exit(main())

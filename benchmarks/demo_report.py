"""The demo's closing table: what was measured next to chance, and where the files are.

    python -m benchmarks.demo_report

Reads what `make demo` wrote.
"""

CONFIG = {
    "demo_dir": "demo",  # the demo's world and results
}

import csv
import math
import sys
from pathlib import Path

from models.script import from_here, run_script

FILES = {
    "recall_gallery.html": "what recall found for every POI, to look at",
    "selected_images.html": "images chosen for one item by both stages",
    "recall_scores.csv": "cosine of every POI and image",
    "pair_scores.csv": "click scores of every pair",
    "align_best.pth": "the recall model",
    "ranking_*_*.ckpt": "the ranking model",
}


def main(argv=None) -> int:
    return run_script(__name__, argv, report)


def report(config) -> None:
    from models.recall_metrics import hits, own_images
    from models.recall_results import read_recall_scores

    folder = Path(config.demo_dir)
    scores = read_recall_scores(folder / "recall_scores.csv")
    new_names = set((folder / "new_names.txt").read_text(encoding="utf-8").split())
    new = [name in new_names for name in scores.poi_names]
    own = own_images(scores)
    print(f"\n{'':58}measured  chance")
    for k in (5, 1):
        chance = random_hit(len(scores.images), len(own[0].ranks), k)
        line(f"recall@{k}, all {len(new)} POIs, images never seen in training", hits(own, k).mean(), chance)
        unseen = [images for images, is_new in zip(own, new, strict=True) if is_new]
        line(f"recall@{k}, the {len(unseen)} POIs whose names were never trained on", hits(unseen, k).mean(), chance)
    line("AUC within pairs, items never seen in training", pair_auc(folder / "pair_scores.csv"), 0.5)
    line("the same with POI vectors set to zero", pair_auc(folder / "zero_vectors_scores.csv"), 0.5)
    print()
    for pattern, what in FILES.items():
        for path in sorted(folder.glob(pattern)):
            print(f"{from_here(path.resolve()):30} {what}")


def line(what: str, measured: float, chance: float) -> None:
    print(f"{what:58}{measured:8.3f}{chance:8.3f}")


def random_hit(images: int, own: int, k: int) -> float:
    """The chance that at least one of `own` images is among K drawn from all `images`."""
    k = min(k, images)
    return 1 - math.comb(images - own, k) / math.comb(images, k)


def pair_auc(path: Path) -> float:
    from models.ranking_metrics import pair_metrics

    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ([float(row[key]) for row in rows] for key in ("score_a", "score_b", "label"))
    return pair_metrics(*columns).auc


if __name__ == "__main__":
    sys.exit(main())

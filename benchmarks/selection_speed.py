"""Time and memory of choosing images for many items out of a large pool, once the vectors are there.

    python -m benchmarks.selection_speed

Vectors are random, the ranking network is full-size, every item has five POIs; the result CSV is written and deleted.
The naive way beside it scores and sorts the whole pool for one item after another.
"""

CONFIG = {
    "images": 100_000,  # in the pool
    "items": 1000,  # to choose for
    "recall_k": 5,  # as in select_images.py
    "rejected_k": 10,  # as in select_images.py
    "naive_items": 50,  # of these the naive way is timed too
}

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from models.items import Item
from models.poi import PoiKnowledge
from models.ranking import RankingConfig, RankingModel
from models.script import run_script
from models.selection import rank_items, recall_items
from models.selection_results import write_selections


def main(argv=None) -> int:
    return run_script(__name__, argv, measure)


@torch.inference_mode()
def measure(config) -> None:
    torch.manual_seed(0)
    model = RankingModel(RankingConfig(image_width=0.1, image_depth=0.1, text_layers=1)).eval()  # the head is full-size
    images, texts = (F.normalize(torch.randn(n, 512), dim=1) for n in (config.images, config.items))
    names = [f"poi{number}" for number in range(2000)]
    vectors = dict(zip(names, F.normalize(torch.randn(2000, 512), dim=1), strict=True))
    poi = PoiKnowledge(vectors, vectors, dict.fromkeys(names, (1.0, 2.0, 3.0)), 512)
    items = [Item(str(n), "", ",".join(names[n % 1990 : n % 1990 + 5])) for n in range(config.items)]
    queries = {item.text: text for item, text in zip(items, texts, strict=True)}
    before = peak()

    start = time.perf_counter()
    recalled = recall_items(texts, images, [None] * len(items), config.recall_k, config.rejected_k, threshold=0.1)
    recall_end = time.perf_counter()
    selections = list(rank_items(model, poi, items, queries, recalled, images))
    rank_end = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = write_selections(Path(folder) / "selected.csv", selections, [f"{n}.jpg" for n in range(config.images)])
    end = time.perf_counter()
    print(f"recall {recall_end - start:.2f} s, ranking {rank_end - recall_end:.2f} s, ", end="")
    print(f"{rows:,} rows {end - rank_end:.2f} s")
    print(f"memory: {before:,.0f} MB with the vectors, {peak() - before:,.0f} MB more at the peak")

    start = time.perf_counter()
    for text, ours in zip(texts[: config.naive_items], recalled, strict=False):
        scores = (images @ text).sort(descending=True, stable=True).values
        torch.testing.assert_close(torch.tensor(ours.scores[: ours.kept]), scores[: ours.kept], atol=1e-6, rtol=0)
    naive = (time.perf_counter() - start) / config.naive_items * len(items)
    print(f"naive recall, scaled from {config.naive_items} items: {naive:.1f} s")


def peak() -> float:
    """The most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())

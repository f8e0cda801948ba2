"""Time recall@5 against a plain Python loop over the lines, on a result CSV of 2.5 million rows made here.

    python -m benchmarks.recall_metric_speed

Runs both in turns, each in a process of its own, and prints the medians of the computation and of the whole command,
their ratios, and the peak memory.
"""

CONFIG = {
    "pois": 500,  # POIs of the result
    "images": 5000,  # images of the result, as many of each POI
    "repeats": 5,  # runs of each
}

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.script import ROOT, run_script

K = 5


def main(argv=None) -> int:
    return run_script(__name__, argv, compare)


def compare(config) -> None:
    runs = {name: [] for name in METHODS}  # each a list of (computation, whole command, MiB, recall)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.csv"
        call(f"make_result({str(path)!r}, {config.pois}, {config.images})")
        print(f"{config.pois * config.images:,} rows, {path.stat().st_size / 1e6:.0f} MB")
        for _ in range(config.repeats):
            for name in METHODS:
                start = time.perf_counter()
                computation, memory, recall = map(float, call(f"measure({name!r}, {str(path)!r})").split())
                runs[name].append((computation, time.perf_counter() - start, memory, recall))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in runs.items()}
    for name, (computation, whole, memory, recall) in medians.items():
        print(
            f"{name}: {computation:.2f} s, {whole:.2f} s with start-up, {memory:.0f} MiB at most, recall {recall:.3f}"
        )
    loop, ours = medians.values()
    print(f"ratio: {loop[0] / ours[0]:.1f}, {loop[1] / ours[1]:.1f} with start-up")
    if loop[3] != ours[3]:
        raise SystemExit("the two disagree")


def call(function: str) -> str:
    """What a function of this file prints in a process of its own."""
    command = [sys.executable, "-c", f"from {__spec__.name} import *; {function}"]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def make_result(path: str, pois: int, images: int) -> None:
    """A result of random cosines in which own images are somewhat better, in the recall script's format."""
    import torch

    from models.recall_scores import write_recall_scores

    generator = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(pois, 64, generator=generator), dim=1)
    owners = [number * pois // images for number in range(images)]
    vectors = torch.nn.functional.normalize(torch.randn(images, 64, generator=generator) + 2 * texts[owners], dim=1)
    names = [f"temp_recall_biztype0_fc5_imagern_500/{10000 + owner}_{rank}.jpg" for rank, owner in enumerate(owners)]
    rows = ((str(10000 + number), f"普陀山风景区{number}", texts[number]) for number in range(pois))
    write_recall_scores(path, rows, names, vectors)


def measure(name: str, path: str) -> None:
    """Print the seconds, the peak memory in MiB and the result of one method; what it imports is imported before."""
    method = METHODS[name]()
    start = time.perf_counter()
    recall = method(path)
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, recall)


def plain_loop():
    import csv
    from collections import defaultdict

    def recall(path: str) -> float:
        images = defaultdict(list)
        with open(path, encoding="utf-8", newline="") as file:
            for poi_id, _, image_path, score in csv.reader(file):
                images[poi_id].append((float(score), image_path))
        hits = 0
        for poi_id, scored in images.items():
            best = sorted(scored, key=lambda pair: -pair[0])[:K]
            hits += any(image_path.rsplit("/", 1)[-1].split("_")[0] == poi_id for _, image_path in best)
        return hits / len(images)

    return recall


def this_project():
    from models.recall_metrics import recall_at_k
    from models.recall_results import read_recall_scores

    return lambda path: recall_at_k(read_recall_scores(path), K)


METHODS = {"plain loop": plain_loop, "this project": this_project}

if __name__ == "__main__":
    sys.exit(main())

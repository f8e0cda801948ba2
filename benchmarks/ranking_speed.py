"""How much faster local_eval_test.py is than the released procedure, both as whole scripts, start-up included.

    python -m benchmarks.ranking_speed --photos-dir data/images

Takes the first pairs of the real table, and for their images copies of real photographs.  Weights and POI vectors are
random and full-size.  The two scripts run in turn, and must agree on every score to 1e-5.
"""

CONFIG = {
    "photos_dir": "data/images",  # photographs, used again and again until every image of the pairs has one
    "megapixels": 1.7,  # to which they are scaled, as in benchmarks.recall_speed; 0: as they are
    "dataset_csv": "data/dwd_mml_train_dataset_1007_urls_val_with_poi_tuomin.csv",  # the table of pairs
    "bert_path": "bert-base-chinese",  # a folder with vocab.txt
    "pairs": 100,  # how many
    "repeats": 3,  # runs of each script, in turn; medians count
}

import csv
import itertools
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.recall_speed import scaled
from models.errors import InputError
from models.images import list_images
from models.script import ROOT, run_script
from models.tables import read_pairs, text_lines

SCRIPTS = {"released procedure": ["-m", "benchmarks.ranking_procedure"], "local_eval_test.py": ["local_eval_test.py"]}


def main(argv=None) -> int:
    return run_script(__name__, argv, compare)


def compare(config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = make_world(Path(folder), config)
        times = {name: [] for name in SCRIPTS}
        for _ in range(config.repeats):
            scores = []
            for name, script in SCRIPTS.items():
                seconds, rows = timed(script, settings)
                times[name].append(seconds)
                scores.append(rows)
            compare_scores(*scores)
    released, ours = (statistics.median(each) for each in times.values())
    print(f"medians of {config.repeats}: {released:.1f} s and {ours:.1f} s for {config.pairs} pairs")
    print(f"local_eval_test.py is {released / ours:.2f} times as fast")


def make_world(folder: Path, config) -> dict[str, str]:
    """Make table, images, checkpoint and POI files in `folder`; the settings that both scripts take."""
    import torch

    from benchmarks.live_ranking import live_head, released_ranking_file
    from benchmarks.live_weights import live_align, released_file

    table = folder / "pairs.csv"
    table.write_text("".join(itertools.islice(text_lines(config.dataset_csv), config.pairs)), encoding="utf-8")
    pairs, _ = read_pairs(table)
    photos = itertools.cycle(
        scaled(photo, folder / f"{number}.jpg", config.megapixels)
        for number, photo in enumerate(list_images(config.photos_dir))
    )
    (folder / "images").mkdir()
    for name in dict.fromkeys(name for pair in pairs for name in (pair.image_a, pair.image_b)):
        shutil.copyfile(next(photos), folder / "images" / name)

    torch.save(released_ranking_file(released_file(live_align())["state_dict"], live_head()), folder / "ranking.ckpt")
    generator = np.random.default_rng(0)
    names = sorted({name for pair in pairs for name in pair.poi_names.split(",")})
    vectors = generator.standard_normal((2, len(names), 512), dtype=np.float32) / 512**0.5
    np.save(folder / "image_vectors.npy", dict(zip(names, vectors[0], strict=True)))
    np.save(folder / "name_vectors.npy", dict(zip(names, vectors[1], strict=True)))
    np.save(folder / "counts.npy", {name: generator.integers(100, size=3).tolist() for name in names})
    return {
        "--dataset-csv": str(table),
        "--image-dir": str(folder / "images"),
        "--model-path": str(folder / "ranking.ckpt"),
        "--bert-path": config.bert_path,
        "--poi-image-vectors": str(folder / "image_vectors.npy"),
        "--poi-name-vectors": str(folder / "name_vectors.npy"),
        "--poi-image-counts": str(folder / "counts.npy"),
        "--output-csv": str(folder / "scores.csv"),
    }


def timed(script: list[str], settings: dict[str, str]) -> tuple[float, list[list[str]]]:
    """Seconds that the script took, and the rows that it wrote."""
    command = [sys.executable, *script, *itertools.chain(*settings.items())]
    start, used = time.perf_counter(), processor_seconds()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    print(f"{' '.join(script)}: {seconds:.1f} s, {processor_seconds() - used:.1f} s of processor time", flush=True)
    if done.returncode:
        raise InputError(f"{' '.join(script)} failed: {done.stderr[-2000:]}")
    with open(settings["--output-csv"], encoding="utf-8", newline="") as file:
        return seconds, list(csv.reader(file))


def processor_seconds() -> float:
    """What all processes started so far have used, which tells more than the clock on a busy machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compare_scores(expected: list[list[str]], rows: list[list[str]]) -> None:
    """InputError unless both are the same to 1e-5."""
    names = [[row[:3] + row[5:] for row in each] for each in (expected, rows)]
    numbers = [np.array([row[3:5] for row in each[1:]], dtype=float) for each in (expected, rows)]
    difference = np.abs(numbers[0] - numbers[1]).max() if names[0] == names[1] else np.inf
    print(f"largest difference of a score: {difference:.1e} (the scores' deviation: {numbers[0].std():.2f})")
    if not difference < 1e-5:
        raise InputError("the two scripts disagree")


if __name__ == "__main__":
    sys.exit(main())

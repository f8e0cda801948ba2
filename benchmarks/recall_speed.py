"""Time stage 1 against the released procedure: whole scripts, start-up included, on the same files.

    python -m benchmarks.recall_speed --photos-dir FOLDER --bert-path bert-base-chinese

Runs the two in turns and prints each one's median, their ratio, and how far their scores are apart.
"""

CONFIG = {
    "photos_dir": None,  # photographs to use, repeated as often as needed; None: drawn ones
    "megapixels": 1.7,  # to which they are scaled; 0: as they are
    "count": 160,  # images to encode
    "repeats": 3,  # runs of each procedure
    "model_path": None,  # recall weights; None: random ones that react to their input
    "bert_path": "bert-base-chinese",  # a folder with vocab.txt
    "dataset_csv": "data/temp_recall_biztype0_fc5_imagern_500.csv",  # the POIs
}

import csv
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.live_weights import pictures
from models.script import ROOT, run_script
from models.tables import poi_names, read_recall_table

SCRIPTS = {
    "released procedure": ["-m", "benchmarks.released_recall"],
    "this project": [str(ROOT / "align_recall_test_with_mmkg_model.py")],
}


def main(argv=None) -> int:
    return run_script(__name__, argv, compare)


def compare(config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        arguments = {
            "model_path": config.model_path or live_checkpoint(folder / "align_model.pth"),
            "bert_path": config.bert_path,
            "image_dir": make_images(folder / "images", config),
            "dataset_csv": config.dataset_csv,
        }
        flags = [part for key, value in arguments.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        outputs = {name: folder / f"{number}.csv" for number, name in enumerate(SCRIPTS)}
        seconds = {name: [] for name in SCRIPTS}
        for _ in range(config.repeats):
            for name, script in SCRIPTS.items():
                start = time.perf_counter()
                command = [sys.executable, *script, *flags, "--output-csv", str(outputs[name])]
                subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - start)
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
        difference = max(abs(a - b) for a, b in zip(*map(read_scores, outputs.values()), strict=True))
    medians = [statistics.median(each) for each in seconds.values()]
    print(f"largest difference between their scores: {difference:.1e}")
    for name, median in zip(SCRIPTS, medians, strict=True):
        print(f"median, {name}: {median:.1f} s")
    print(f"ratio: {medians[0] / medians[1]:.2f}")


def live_checkpoint(path: Path) -> Path:
    """A full-size checkpoint in the released format, made in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.live_weights", "--output-path", str(path)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return path


def make_images(folder: Path, config) -> Path:
    """`count` images in `folder`, named as images of the table's POIs."""
    folder.mkdir()
    pois = list(poi_names(read_recall_table(config.dataset_csv)))
    sources = sorted(Path(config.photos_dir).iterdir()) if config.photos_dir else range(30)
    copies = [
        scaled(source, folder.parent / f"{number}.jpg", config.megapixels) for number, source in enumerate(sources)
    ]
    for number in range(config.count):
        poi_id, rank = pois[number % len(pois)], number // len(pois) + 1
        shutil.copy(copies[number % len(copies)], folder / f"{poi_id}_{rank}.jpg")
    return folder


def scaled(source: Path | int, path: Path, megapixels: float) -> Path:
    """The photograph `source`, or a picture drawn with that seed, as a JPEG of `megapixels` at `path`."""
    from PIL import Image

    if isinstance(source, int):
        pixels = pictures(1, size=960, seed=source)[0, :, :640]  # (3, 640, 960)
        image = Image.fromarray((pixels.permute(1, 2, 0) * 50 + 128).clamp(0, 255).byte().numpy())
    else:
        image = Image.open(source).convert("RGB")
    if megapixels:
        factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    image.save(path, quality=90)
    return path


def read_scores(path: Path) -> list[float]:
    with open(path, encoding="utf-8", newline="") as file:
        return [float(row[3]) for row in csv.reader(file)]


if __name__ == "__main__":
    sys.exit(main())

"""The released weights' own scores for 30 photographs of 普陀山: the check that settles padding and resizing.

Needs what cannot be committed: align_model.pth and bert-base-chinese/ where download_release.py puts them, and the
photographs, under the names in tests/release/putuoshan_scores.csv, in data/putuoshan/.
"""

import csv
from pathlib import Path

import pytest

from models.encode import encode_images, encode_texts
from models.loading import load_align
from models.script import ROOT

WEIGHTS, BERT, PHOTOS = ROOT / "align_model.pth", ROOT / "bert-base-chinese", ROOT / "data" / "putuoshan"
with open(Path(__file__).parent / "release" / "putuoshan_scores.csv", encoding="utf-8", newline="") as file:
    EXPECTED = {row["image"]: float(row["score"]) for row in csv.DictReader(file)}
MISSING = [path for path in (WEIGHTS, BERT / "vocab.txt", *(PHOTOS / name for name in EXPECTED)) if not path.exists()]


@pytest.mark.skipif(bool(MISSING), reason=f"not here: {len(MISSING)} files, such as {MISSING[0] if MISSING else ''}")
def test_released_weights_give_the_released_scores():
    towers = load_align(WEIGHTS, str(BERT), "cpu")
    images = encode_images(towers, [PHOTOS / name for name in EXPECTED])
    assert not images.failed
    scores = images.vectors @ encode_texts(towers, ["普陀山"])["普陀山"]
    assert scores.tolist() == pytest.approx(list(EXPECTED.values()), abs=1e-3)

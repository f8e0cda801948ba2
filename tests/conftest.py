"""Tiny models, vocabularies and pictures, made anew for each test run; nothing is downloaded."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.live_weights import enliven, pictures
from models.align import AlignConfig, AlignModel
from models.checkpoint import save_checkpoint

POIS = {"10060": "海底世界", "10077": "西湖", "20001": 'Hello "Kitty"乐园,东门', "20002": "西湖"}  # id -> name
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*"海底世界西湖乐园东门古镇山日出夜景一二三四五,，。", "hello", "kitty", "##s", '"']


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    """A folder with a small vocab.txt, as the hub would have it."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_config():
    """Sizes with which a model runs in milliseconds."""
    return AlignConfig(
        image_size=32,
        image_width=0.1,
        image_depth=0.1,
        embed_dim=16,
        vocab_size=len(SPECIAL + WORDS),
        text_dim=16,
        text_layers=1,
        text_heads=2,
        text_hidden=32,
        text_positions=64,
        relation_dim=8,
    )


@pytest.fixture(scope="session")
def tiny_align(tmp_path_factory, tiny_config):
    """The path of a tiny recall checkpoint whose weights react to their input."""
    model = AlignModel(tiny_config)
    enliven(model, lambda module: module.image_model(pictures(16, size=32)))
    path = tmp_path_factory.mktemp("weights") / "align_model.pth"
    save_checkpoint(path, model)
    return path


def photograph(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """A picture with smooth areas and edges."""
    pixels = pictures(1, size=max(width, height), seed=seed)[0, :, :height, :width]  # (3, H, W)
    return Image.fromarray((pixels.permute(1, 2, 0) * 50 + 128).clamp(0, 255).numpy().astype(np.uint8))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with three images of each POI but the last, named {poi_id}_{rank}.jpg or .png.  Not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    for number, poi_id in enumerate(list(POIS)[:-1]):
        for rank in (1, 2, 3):
            name = f"{poi_id}_{rank}.{'png' if rank == 2 else 'jpg'}"
            photograph(10 * number + rank, 50 + rank, 40 + number).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def recall_table(tmp_path_factory):
    """The path of a recall table for `photos`; its last POI has no image there."""
    path = tmp_path_factory.mktemp("tables") / "recall.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        for poi_id, name in POIS.items():
            for rank in (1, 2, 3):
                csv.writer(file).writerow([poi_id, name, f"http://localhost/{poi_id}/{rank}", rank, 60, 40, 1])
    return path


@pytest.fixture(autouse=True)
def one_seed():
    """Every test draws the same random numbers, whichever tests ran before."""
    torch.manual_seed(0)

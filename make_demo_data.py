"""Draw a small synthetic world for the demo: tables, images, a vocabulary.  Nothing is downloaded.

    python make_demo_data.py

Writes into `output_dir`, in the formats of the release: training pairs and triples for train_align.py, recall tables
with their images, ranking pairs with theirs, and a BERT folder with a small vocabulary.  The world's POIs are named
after what is to be seen (雪夜红塔 is a red tower on a snowy night); some of the names never occur in training.
"""

CONFIG = {
    "output_dir": "demo",  # a folder that is empty or not there yet
    "pois": 40,  # of the 576 sights of this world
    "new_pois": 8,  # of these, whose names no training text has and whose sights no training image shows
    "item_images": 2000,  # training images with item titles for their text, besides those of the POIs
    "train_pairs": 6000,  # ranking pairs for training
    "test_pairs": 600,  # ranking pairs for validation, and as many for the test
    "seed": 0,  # of everything
}

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from models.errors import InputError
from models.script import progress, run_script
from models.tables import SEPARATOR

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
OFFERS = ("一日游", "半日游", "门票", "自由行", "亲子游", "摄影团", "酒店套餐", "含早餐")
LEADS = ("", "特价", "周末", "纯玩", "私家团")
CATEGORIES = {
    "塔": "古迹",
    "桥": "古迹",
    "城": "古迹",
    "亭": "园林",
    "花": "园林",
    "山": "自然",
    "船": "水上",
    "轮": "乐园",
}
POI_IMAGES, VAL_IMAGES, TEST_IMAGES = 20, 4, 10  # of each POI, for training and POI vectors, validation, test
RANKING_IMAGES = 25  # of each POI, in each of the three ranking tables
APPEAL = {"晴": 1.0, "雪": 0.5, "雾": -0.5, "雨": -1.0, "晨": 0.5, "午": 0.0, "夜": -0.5}  # what people like to click
OWN_POI = 3.0  # how much more they like an image that shows one of the item's POIs
NOISE = 0.3  # scale of the logistic noise of their clicks


def main(argv=None) -> int:
    return run_script(__name__, argv, make_world)


def make_world(config) -> None:
    import numpy as np

    from models.demo_world import all_sights

    if not 0 <= config.new_pois < config.pois <= len(all_sights()) // 2:
        raise InputError(f"pois {config.pois}, new_pois {config.new_pois}: out of {len(all_sights())} sights")
    folder, random = empty_folder(config.output_dir), np.random.default_rng(config.seed)
    sights = [all_sights()[index] for index in random.permutation(len(all_sights()))]
    pois, new = sights[: config.pois], sights[config.pois - config.new_pois : config.pois]
    known, seen = ([sight for sight in group if sight not in new] for group in (pois, sights))
    ids = {sight: 10001 + number for number, sight in enumerate(pois)}

    shown = draw_all(folder / "poi_images", poi_files(pois, ids, POI_IMAGES), random)
    write_recall_table(folder / "poi_images.csv", shown)
    poi_pairs = [(sight.name, f"poi_images/{file}") for file, sight in shown.items() if sight in known]
    shown = {f"{number:05}.jpg": seen[random.integers(len(seen))] for number in range(config.item_images)}
    draw_all(folder / "item_images", shown, random)
    item_pairs = [(title(sight.name, random), f"item_images/{file}") for file, sight in shown.items()]
    write_csv(folder / "align_pairs.csv", [("text", "image"), *poi_pairs, *item_pairs])
    write_csv(folder / "align_triples.csv", [("head", "relation", "tail"), *triples(known, poi_pairs, random)])

    for name, group, count in (("val_images", known, VAL_IMAGES), ("recall_images", pois, TEST_IMAGES)):
        shown = draw_all(folder / name, poi_files(group, ids, count), random)
        write_recall_table(folder / f"{name}.csv", shown)
    write_lines(folder / "new_names.txt", [sight.name for sight in new])

    for part, count in (("train", config.train_pairs), ("val", config.test_pairs), ("test", config.test_pairs)):
        shown = {f"{part}_{ids[sight]}_{n}.jpg": sight for sight in pois for n in range(RANKING_IMAGES)}
        draw_all(folder / "ranking_images", shown, random)
        write_lines(folder / f"ranking_{part}.csv", [pair(f"{part}_{n}", pois, shown, random) for n in range(count)])
    write_bert(folder / "bert")
    print(f"wrote {sum(1 for _ in folder.rglob('*.jpg'))} images and their tables into {folder}")


def empty_folder(path: str) -> Path:
    """A new or empty folder: nobody's files are overwritten, and none of an earlier world are left in between."""
    folder = Path(path)
    if not folder.parent.is_dir():
        raise InputError(f"{folder.parent}: no such folder for {folder.name}; make it first")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; delete it, or choose another output_dir")
    folder.mkdir(exist_ok=True)
    return folder


def draw_all(folder: Path, files: dict, random) -> dict:
    """Draw the sight of each file name into a folder; returns `files`."""
    from models.demo_world import draw

    folder.mkdir(exist_ok=True)
    for file, sight in progress(files.items(), desc=folder.name, unit="image"):
        draw(sight, random).save(folder / file, quality=90)
    print(f"{folder}: {len(files)} images", flush=True)
    return files


def poi_files(sights, ids: dict, count: int) -> dict:
    """{poi_id}_{rank_number}.jpg, `count` of each -> its sight."""
    return {f"{ids[sight]}_{rank}.jpg": sight for sight in sights for rank in range(1, count + 1)}


def title(name: str, random) -> str:
    return LEADS[random.integers(len(LEADS))] + name + OFFERS[random.integers(len(OFFERS))]


def triples(sights, poi_pairs, random):
    """What the knowledge graph says of POIs: their category, some titles, and all their training images."""
    for sight in sights:
        yield sight.name, "has_cate", CATEGORIES[sight.place]
        yield from {(sight.name, "has_title", title(sight.name, random)): None for _ in range(3)}
    yield from ((name, "has_image", image) for name, image in poi_pairs)


def pair(item_id: str, pois, shown: dict, random) -> str:
    """A row of a ranking table: an item with up to three POIs, two images, and which of them was clicked more.

    Clicks depend on how an image looks and on whether it shows one of the item's POIs; some of it is chance.
    """
    own = [pois[index] for index in random.choice(len(pois), random.integers(1, 4), replace=False)]
    files = list(shown)
    images = [files[index] for index in random.choice(len(files), 2, replace=False)]
    for index in range(2):
        if random.random() < 0.5:  # else hardly any image would show one of the item's POIs
            fitting = [file for file in files if shown[file] in own and file not in images]
            images[index] = fitting[random.integers(len(fitting))]
    likes = [APPEAL[shown[f].weather] + APPEAL[shown[f].time] + OWN_POI * (shown[f] in own) for f in images]
    a_wins = likes[0] - likes[1] + random.logistic(0, NOISE) > 0
    names = ",".join(sight.name for sight in own) if random.random() < 0.9 else ""  # some items lack them
    urls = [f"https://images.invalid/{file}" for file in images]
    category = CATEGORIES[own[0].place]
    return SEPARATOR.join(
        (item_id, *urls, *("21" if a_wins else "12"), title(own[0].name, random), category, *urls, names)
    )


def write_recall_table(path: Path, shown: dict) -> None:
    """The recall table of the images in the folder of the same name."""
    from PIL import Image

    rows = []
    for file, sight in shown.items():
        poi_id, rank = Path(file).stem.split("_")
        with Image.open(path.with_suffix("") / file) as image:
            rows.append((poi_id, sight.name, f"https://images.invalid/{file}", rank, image.width, image.height, 0))
    write_csv(path, rows)


def write_bert(folder: Path) -> None:
    """A vocabulary of every character in this world, and the config of a BERT of that size."""
    from models.demo_world import all_sights

    texts = [*(sight.name for sight in all_sights()), *OFFERS, *LEADS, *CATEGORIES.values(), ","]
    tokens = SPECIAL_TOKENS + sorted(set("".join(texts)))
    folder.mkdir()
    write_lines(folder / "vocab.txt", tokens)
    write_lines(folder / "config.json", [json.dumps(BERT | {"vocab_size": len(tokens)}, indent=2)])


def write_csv(path: Path, rows: Iterable[tuple]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())

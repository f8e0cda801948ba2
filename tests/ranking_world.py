"""A tiny stage 2 for tests: a checkpoint with live weights, POI files, and items that meet every rule."""

import numpy as np
import torch
from conftest import photograph

from benchmarks.live_ranking import live_head, released_ranking_file
from models.checkpoint import load_checkpoint
from models.tables import SEPARATOR, Pair

COUNTS = {  # n0 + 5·n1 + 3·n2 is not in the order of n0; 东门 and 乐园 are equal, and fifth of all
    "西湖": [3, 0, 0],
    "海底世界": [0, 9, 0],
    "古镇": [90, 0, 0],
    "东门": [2, 1, 1],
    "乐园": [10, 0, 0],
    "日出": [0, 3, 9],
    "夜景": [0, 0, 3],
    "山": [99, 9, 9],
}
WITH_VECTOR = ["西湖", "海底世界", "古镇", " 古镇", "东门", "乐园", "日出", "夜景", "山"]  # " 古镇" has its own
ITEMS = {  # POI names -> title
    "": "西湖一日",
    "山": "一个字",
    "西湖": "海底世界二日",
    "西湖,海底世界,古镇": "三山",
    "东门,西湖,乐园,古镇,海底世界": "五山",
    "西湖,乐园,东门,夜景,日出,海底世界,古镇,山": "八山",
    "无名,西湖,不知,无名": "未知",
    "西湖,东门, 古镇,乐园,日出,海底世界": "空格",
    "西湖,无名,": "末尾",
}


def write_ranking_checkpoint(path, tiny_align):
    """A tiny ranking checkpoint around the recall checkpoint `tiny_align`."""
    align = load_checkpoint(tiny_align)
    state = released_ranking_file(align.state, live_head(align.config["embed_dim"]))
    torch.save({"state_dict": state, "config": align.config}, path)
    return path


def write_poi_files(folder, dim: int) -> list:
    """The three released .npy files; vectors as arrays in one and as tensors in the other."""
    generator = np.random.default_rng(0)
    images, names = generator.standard_normal((2, len(WITH_VECTOR), dim), dtype=np.float32) / dim**0.5
    contents = {
        "image_vectors.npy": dict(zip(WITH_VECTOR, images, strict=True)),
        "name_vectors.npy": dict(zip(WITH_VECTOR, map(torch.from_numpy, names), strict=True)),
        "counts.npy": COUNTS,
    }
    for name, content in contents.items():
        np.save(folder / name, content)
    return [folder / name for name in contents]


def make_pairs(image_names: list[str], repeats: int = 1, category: str = "跟团游") -> list[Pair]:
    """A pair for each of ITEMS, `repeats` times, with the images in turn; in every third a was clicked more."""
    pairs = []
    for poi_names, title in list(ITEMS.items()) * repeats:
        number = len(pairs)
        a, b = (image_names[(2 * number + side) % len(image_names)] for side in (0, 1))
        ctr_a = 2 if number % 3 == 0 else 1
        urls = [f"http://localhost/{side}/{name}?x=1" for side in ("short", "durable") for name in (a, b)]
        fields = (f"item_{number}", *urls[:2], ctr_a, 3 - ctr_a, title, category, *urls[2:], poi_names)
        pairs.append(Pair(*fields))
    return pairs


def write_table(path, pairs: list[Pair], more: tuple[str, ...] = ()):
    """The table of pairs, with `more` lines at its end."""
    lines = [SEPARATOR.join(map(str, pair)) for pair in pairs] + list(more)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_pictures(folder, count: int) -> list[str]:
    """Pictures of several file types, all named .jpg, as the real table has them; returns their names."""
    folder.mkdir()
    names = [f"picture{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        kind = ("JPEG", "PNG", "GIF", "WEBP")[number % 4]
        photograph(number, 40 + number, 50).save(folder / name, format=kind)
    return names

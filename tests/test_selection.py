"""Selection equals scoring everything, filtering and sorting; every item is answered; bad input is one line."""

import csv

import numpy as np
import pytest
import torch
from conftest import photograph

import select_images as script
from benchmarks.live_weights import enliven
from models import selection
from models.checkpoint import load_checkpoint, save_checkpoint
from models.encode import encode_images, encode_texts
from models.images import list_images
from models.items import Item, read_items
from models.loading import load_align, load_ranking
from models.poi import PoiKnowledge
from models.ranking import RankingConfig, RankingModel
from models.selection import Recalled, choices, recall_items


def brute_force(text, images, candidates, recall_k, rejected_k, threshold):
    """Score everything, sort, filter: (listed, kept, below)."""
    scores = {index: float((images[index].double() @ text.double()).float()) for index in candidates}
    order = sorted(candidates, key=lambda index: (-scores[index], index))
    fitting = [index for index in order if threshold is None or scores[index] >= threshold]
    kept = fitting[:recall_k]
    others = [index for index in order if index not in kept]
    listed = kept + others[:rejected_k]
    return Recalled(listed, [scores[i] for i in listed], len(kept), len(candidates), len(order) - len(fitting))


@pytest.mark.parametrize("seed", range(40))
def test_recall_is_brute_force(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    for name, most in (("TEXT_BLOCK", 5), ("IMAGE_BLOCK", 45)):
        monkeypatch.setattr(selection, name, int(rng.integers(1, most)))
    # Small whole numbers: scores are exact in any order of summation, and many are equal.
    images, texts = (torch.from_numpy(rng.integers(-2, 3, (n, 3))).float() for n in rng.integers(1, 40, 2))
    everything = list(range(len(images)))
    own = [sorted(rng.choice(everything, rng.integers(0, len(images) + 1), False).tolist()) for _ in texts]
    own = [indices if rng.random() < 0.3 else None for indices in own]
    recall_k, rejected_k = int(rng.integers(1, 12)), int(rng.integers(0, 12))
    threshold = None if rng.random() < 0.3 else float(rng.integers(-4, 5))

    found = recall_items(texts, images, own, recall_k, rejected_k, threshold)
    for text, indices, recalled in zip(texts, own, found, strict=True):
        candidates = everything if indices is None else indices
        assert recalled == brute_force(text, images, candidates, recall_k, rejected_k, threshold)


def test_memory_is_bounded_by_the_blocks(monkeypatch):
    shapes = []
    first_best = selection.first_best
    monkeypatch.setattr(selection, "first_best", lambda scores, k: shapes.append(scores.shape) or first_best(scores, k))
    recall_items(torch.randn(600, 4), torch.randn(40_000, 4), [None] * 600, 5, 10)
    assert len(shapes) == 9 and max(rows for rows, _ in shapes) == 256 and max(n for _, n in shapes) == 16384


def test_ranking_orders_what_recall_kept():
    recalled = Recalled([7, 3, 9, 1, 4], [0.9, 0.8, 0.8, 0.5, 0.1], kept=3, candidates=20, below_threshold=16)
    rows = choices(recalled, [0.2, 1.5, 0.2])
    assert [(row.index, row.verdict, row.click_rank, row.recall_rank) for row in rows] == [
        (3, "chosen", 1, 2),
        (7, "chosen", 2, 1),  # as many clicks as 9: the one that fits better comes first
        (9, "chosen", 3, 3),
        (1, "beyond_recall_k", None, 4),
        (4, "below_threshold", None, 5),
    ]


@pytest.fixture(scope="module")
def ranking_file(tmp_path_factory, tiny_config, tiny_align):
    """A ranking checkpoint that reacts to its input, with `tiny_align` inside."""
    model = RankingModel(RankingConfig(**vars(tiny_config)))
    enliven(model, lambda module: module(*torch.randn(2, 64, 16), *torch.randn(2, 64, 5, 16), torch.full((64,), 5)))
    model.align_model.load_state_dict(load_checkpoint(tiny_align).state)
    path = tmp_path_factory.mktemp("ranking") / "ranking.ckpt"
    save_checkpoint(path, model)
    return path


@pytest.fixture(scope="module")
def poi_file(tmp_path_factory):
    """POI vectors that matter, of three POIs."""
    generator = torch.Generator().manual_seed(3)
    names = ["西湖", "古镇", "海底世界"]
    vectors = [dict(zip(names, torch.randn(3, 16, generator=generator), strict=True)) for _ in range(2)]
    path = tmp_path_factory.mktemp("poi") / "poi.npz"
    PoiKnowledge(*vectors, {name: (1.0, 2.0, rank) for rank, name in enumerate(names)}, 16).save(path)
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """12 pictures, the last one under another name once more, and two files that are none."""
    folder = tmp_path_factory.mktemp("pool")
    for number in range(12):
        photograph(number, 40 + number, 50).save(folder / f"{number:02}.png")
    (folder / "99.png").write_bytes((folder / "11.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


ITEMS = [
    Item("a", "西湖日出", "西湖,古镇,山"),
    Item("b", "海底世界夜景", ""),
    Item("c", "", "古镇"),
    Item("d", "乐园", "海底世界", ("03.png", "07.png", "05.png", "gone.png")),
    Item("e", "乐园", "西湖", ("02.png",)),
    Item("f", "乐园", "西湖", ("broken.jpg", "gone.png")),
]


def write_items(path, items=ITEMS):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Item._fields)
        writer.writerows((*item[:3], "|".join(item.images)) for item in items)
    return path


@pytest.fixture
def choose(tmp_path, ranking_file, poi_file, pool, vocabulary):
    """Run the script over the small world; returns the exit code and the rows of its result."""

    def run(*flags, output=tmp_path / "selected.csv"):
        paths = {"model-path": ranking_file, "poi-image-vectors": poi_file, "image-dir": pool, "bert-path": vocabulary}
        arguments = [text for key, path in paths.items() for text in (f"--{key}", str(path))]
        code = script.main([*arguments, "--output-csv", str(output), *map(str, flags)])
        return code, list(csv.DictReader(output.open(encoding="utf-8"))) if output.exists() else None

    return run


@torch.no_grad()
def expected_rows(ranking_file, poi_file, pool, vocabulary, recall_k, rejected_k, threshold, align=None):
    """The result as the definition has it: both scores of every item and image, one pair at a time."""
    model, own_towers = load_ranking(ranking_file, str(vocabulary))
    towers = load_align(align, str(vocabulary)) if align else own_towers
    poi = PoiKnowledge.load(poi_file, "", "", dim=16)
    paths, vectors, _ = encode_images(towers, list_images(pool))
    names = [path.name for path in paths]
    click_vectors = encode_images(own_towers, paths).vectors
    vectors, click_vectors = vectors.clone(), click_vectors.clone()
    for each in (vectors, click_vectors):  # copies of a file are equal to the last digit
        each[names.index("99.png")] = each[names.index("11.png")]
    rows = []
    for item in ITEMS:
        candidates = [i for i, path in enumerate(paths) if not item.images or path.name in item.images]
        text = encode_texts(towers, [item.text])[item.text]
        recalled = brute_force(text, vectors, candidates, recall_k, rejected_k, threshold)
        text = encode_texts(own_towers, [item.text])[item.text]
        *poi_vectors, count = (torch.as_tensor(each)[None] for each in poi.features(item.poi_names))
        clicks = [float(model(click_vectors[i][None], text[None], *poi_vectors, count)) for i in candidates]
        clicks = dict(zip(candidates, clicks, strict=True))
        ranked = sorted(recalled.indices[: recalled.kept], key=lambda i: (-clicks[i], recalled.indices.index(i)))
        for place, i in enumerate([*ranked, *recalled.indices[recalled.kept :]]):
            rows.append((item.item_id, paths[i].name, clicks[i] if place < recalled.kept else None, i, recalled))
        if not recalled.indices:
            rows.append((item.item_id, "", None, None, recalled))
    return rows


@pytest.mark.parametrize(
    ("recall_k", "rejected_k", "threshold"), [(5, 10, None), (3, 0, 0.05), (20, 2, -0.1), (1, 1, 2)]
)
def test_the_script_is_brute_force(
    recall_k, rejected_k, threshold, choose, ranking_file, poi_file, pool, vocabulary, tmp_path
):
    flags = ["--recall-k", recall_k, "--rejected-k", rejected_k]
    flags += [] if threshold is None else ["--score-threshold", threshold]
    code, rows = choose("--items-csv", write_items(tmp_path / "items.csv"), *flags)
    expected = expected_rows(ranking_file, poi_file, pool, vocabulary, recall_k, rejected_k, threshold)
    assert code == 0
    assert [(row["item_id"], row["image_path"].rpartition("/")[2]) for row in rows] == [row[:2] for row in expected]
    for row, (_, _, click, index, recalled) in zip(rows, expected, strict=True):
        counts = [int(row[key]) for key in ("candidates", "chosen", "below_threshold", "beyond_recall_k")]
        assert counts[:3] == [recalled.candidates, recalled.kept, recalled.below_threshold]
        assert counts[0] == sum(counts[1:])
        if index is None:
            assert row["verdict"] == "none" and not row["recall_score"]
            continue
        place = recalled.indices.index(index)
        assert float(row["recall_score"]) == pytest.approx(recalled.scores[place], abs=1e-5)
        assert int(row["recall_rank"]) == place + 1
        assert (row["verdict"] == "chosen") == (click is not None) == bool(row["click_rank"])
        if click is None:
            below = threshold is not None and recalled.scores[place] < threshold
            assert row["verdict"] == ("below_threshold" if below else "beyond_recall_k") and not row["click_score"]
        else:
            assert float(row["click_score"]) == pytest.approx(click, abs=1e-5)


def test_poi_knowledge_changes_the_clicks_and_its_absence_is_said(choose, monkeypatch, capsys, tmp_path):
    flags = ["--title", "西湖日出", "--poi-names", "西湖,古镇"]
    _, with_pois = choose(*flags)
    capsys.readouterr()
    for key in ("poi_image_vectors", "poi_name_vectors", "poi_image_counts"):
        monkeypatch.setitem(script.CONFIG, key, str(tmp_path / "none.npy"))
    code, without = choose(*flags, "--poi-image-vectors", tmp_path / "none.npy")
    assert code == 0 and "their vectors are zeros" in capsys.readouterr().out
    assert {row["image_path"] for row in with_pois} == {row["image_path"] for row in without}
    assert [row["click_score"] for row in with_pois] != [row["click_score"] for row in without]
    code, _ = choose(*flags, "--poi-image-vectors", tmp_path / "mistyped.npz")
    assert code == 1 and "mistyped.npz: no such file" in capsys.readouterr().err


def test_another_recall_model_decides_what_fits(
    choose, tiny_config, ranking_file, poi_file, pool, vocabulary, tmp_path
):
    from models.align import AlignModel

    other = AlignModel(tiny_config)
    enliven(other, lambda module: module.image_model(torch.randn(16, 3, 32, 32)), seed=5)
    save_checkpoint(tmp_path / "other.pth", other)
    items = write_items(tmp_path / "items.csv")
    _, rows = choose("--items-csv", items, "--align-path", tmp_path / "other.pth", "--recall-k", 4)
    expected = expected_rows(ranking_file, poi_file, pool, vocabulary, 4, 10, None, align=tmp_path / "other.pth")
    assert [(row["item_id"], row["image_path"].rpartition("/")[2]) for row in rows] == [row[:2] for row in expected]
    clicks = [float(row["click_score"]) for row in rows if row["click_score"]]
    assert clicks == pytest.approx([row[2] for row in expected if row[2] is not None], abs=1e-5)
    assert {r["image_path"] for r in rows[:4]} != {
        r["image_path"] for r in choose("--items-csv", items, "--recall-k", 4)[1][:4]
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_copies_of_a_picture_come_by_name(workers, choose, pool, tmp_path):
    folder = tmp_path / "copies"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.png").write_bytes((pool / f"{'05' if number % 2 else '02'}.png").read_bytes())
    _, rows = choose("--poi-names", "西湖,古镇", "--image-dir", folder, "--recall-k", 7, "--num-workers", workers)
    names = [row["image_path"][-5] for row in sorted(rows, key=lambda row: int(row["recall_rank"]))]
    assert "".join(names) in ("024681357", "135702468")
    names = "".join(row["image_path"][-5] for row in rows if row["verdict"] == "chosen")
    assert names in ("0246813", "1302468", "1357024", "0241357"), names
    assert len({(row["recall_score"], row["click_score"]) for row in rows if row["verdict"] == "chosen"}) == 2


def test_one_item_is_shown(choose, capsys, tmp_path):
    flags = ["--recall-k", 2, "--rejected-k", 1, "--html", tmp_path / "page.html"]
    code, rows = choose("--title", "西湖日出", *flags)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    assert code == 0 and [row["verdict"] for row in rows] == ["chosen", "chosen", "beyond_recall_k"]
    assert "2 of 13 images chosen for 西湖日出" in shown and "0 below_threshold, 11 beyond_recall_k" in shown
    assert "images left out because they cannot be read: 1\n" in shown
    for row in rows:
        assert row["image_path"].rpartition("/")[2] in page and page.count("<figure>") == 3
        assert row["image_path"] in shown and f"{float(row['recall_score']):.4f}" in shown


def test_what_falls_out_is_said_for_each_item(choose, capsys, tmp_path):
    code, _ = choose("--items-csv", write_items(tmp_path / "items.csv"), "--score-threshold", 2)
    shown = capsys.readouterr().out
    assert code == 0
    assert "items without an image: 6" in shown and "items: 6, 6 of them without an image; 0 images chosen" in shown
    assert "item a: none of its 13 images reaches score_threshold 2.0; the best has " in shown
    assert "item f: none of its own images can be read" in shown
    assert "of 4 POI names, without a vector for ranking: 1\n  山\n" in shown
    assert "item d: gone.png" in shown and "item f: broken.jpg" in shown


def test_the_result_is_the_same_every_time(choose, tmp_path):
    items = write_items(tmp_path / "items.csv")
    results = []
    for workers in (1, 2):
        choose("--items-csv", items, "--num-workers", workers, output=tmp_path / f"{workers}.csv")
        results.append((tmp_path / f"{workers}.csv").read_bytes())
    assert results[0] == results[1]


def test_an_items_csv_is_read(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(
        '\ufeffitem_id,title,poi_names\r\n7,"两日,一夜","西湖,断桥"\r\n\r\n8,"多\n行", \r\n', encoding="utf-8"
    )
    assert read_items(path) == [Item("7", "两日,一夜", "西湖,断桥"), Item("8", "多\n行", "")]
    path.write_text("item_id,title,poi_names,images\n7,西湖,,a b.jpg | c.png|\n8,西湖,,\n", encoding="utf-8")
    assert [item.images for item in read_items(path)] == [("a b.jpg", "c.png"), ()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: the header must be item_id,title,poi_names"),
        ("7,西湖,\n", "line 1: the header must be"),
        ("item_id,title,poi_names\n", "no items after the header"),
        ("item_id,title,poi_names\n7,西湖,\n8,西湖\n", "line 3: 2 fields instead of 3"),
        ("item_id,title,poi_names\n7,西湖,\n8,a,\n7,b,\n", "line 4: item 7 is in line 2 already"),
        ("item_id,title,poi_names\n7, ,\n", "line 2: item 7 has neither a title nor POI names"),
        ("item_id,title,poi_names\n,西湖,\n", "line 2: the item has no id"),
        ('item_id,title,poi_names\n7,"西湖,\n', "line 2: unexpected end of data"),
        ("item_id,title,poi_names\n7,\udcff,\n", "line 2: not UTF-8"),
    ],
)
def test_a_malformed_items_csv_is_one_line(content, message, choose, capsys, tmp_path):
    path = tmp_path / "items.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    code, rows = choose("--items-csv", path)
    error = capsys.readouterr().err
    assert (
        code == 1 and rows is None and error.startswith(f"error: {path}, {message}" if "line" in message else "error")
    )
    assert message in error and error.count("\n") == 1


def test_bad_settings_are_one_line(choose, capsys, tmp_path, tiny_align):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "1.jpg").write_text("no image")
    title = ["--title", "西湖"]
    for flags, message in [
        ([], "set either items_csv, or the title or poi_names"),
        (["--title", " "], "set either items_csv, or the title or poi_names"),
        ([*title, "--items-csv", "items.csv"], "set either items_csv, or the title or poi_names"),
        ([*title, "--image-dir", tmp_path / "empty"], "empty: holds no image"),
        ([*title, "--image-dir", tmp_path / "gone"], "gone: no such image folder"),
        ([*title, "--image-dir", tmp_path / "unreadable"], "none of its 1 images can be read"),
        ([*title, "--model-path", tiny_align], "this is a recall checkpoint"),
        ([*title, "--recall-k", 0], "recall_k is 0; it must be more than 0"),
        ([*title, "--output-csv", tmp_path / "gone" / "out.csv"], "gone: no such folder"),
    ]:
        code, rows = choose(*flags)
        error = capsys.readouterr().err
        assert code == 1 and message in error and error.count("\n") == 1 and rows is None, (flags, error)

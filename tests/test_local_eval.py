"""local_eval_test.py as a user runs it: the scores, the lines it prints, what it leaves out, and what it refuses."""

import csv
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from ranking_world import (
    ITEMS,
    make_pairs,
    write_pictures,
    write_poi_files,
    write_ranking_checkpoint,
    write_table,
)

import local_eval_test
from benchmarks import ranking_procedure
from benchmarks.live_ranking import live_head, released_ranking_file
from benchmarks.live_weights import live_align, released_file
from models import encode
from models.align import AlignModel
from models.poi import PoiKnowledge
from models.ranking_metrics import pair_metrics
from models.tables import SEPARATOR


class World:
    """Files for the script in a folder of their own, and a way to run it on them."""

    def __init__(self, folder, checkpoint, vocabulary, dim=16, **pairs):
        self.names = write_pictures(folder / "images", 6)
        self.pairs = make_pairs(self.names, **pairs)
        poi = write_poi_files(folder, dim)
        self.paths = {
            "dataset_csv": write_table(folder / "pairs.csv", self.pairs),
            "image_dir": folder / "images",
            "model_path": checkpoint,
            "bert_path": vocabulary,
            **dict(zip(("poi_image_vectors", "poi_name_vectors", "poi_image_counts"), poi, strict=True)),
            "output_csv": folder / "scores.csv",
        }

    def flags(self, **changes) -> list[str]:
        settings = self.paths | changes
        return [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]

    def run(self, **changes) -> int:
        return local_eval_test.main(self.flags(device="cpu", **changes))

    def rows(self) -> list[dict[str, str]]:
        with open(self.paths["output_csv"], encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_align):
    return write_ranking_checkpoint(tmp_path_factory.mktemp("ranking") / "ranking.ckpt", tiny_align)


@pytest.fixture
def world(tmp_path, checkpoint, vocabulary):
    return World(tmp_path, checkpoint, vocabulary)


def test_a_full_size_released_checkpoint_scores_as_the_released_procedure_does(tmp_path, vocabulary, capsys):
    checkpoint = tmp_path / "released.ckpt"
    align = live_align()
    torch.save(released_ranking_file(released_file(align)["state_dict"], live_head()), checkpoint)
    del align
    world = World(tmp_path, checkpoint, vocabulary, dim=512)
    write_table(world.paths["dataset_csv"], world.pairs[3:6])  # three, five and eight POI names
    try:
        assert world.run() == 0
        ours = world.rows()
        printed = capsys.readouterr().out
        assert ranking_procedure.main(world.flags()) == 0
        expected = world.rows()
    finally:
        checkpoint.unlink()
    assert len(ours) == 3
    for row, wanted in zip(ours, expected, strict=True):
        for score in ("score_a", "score_b"):
            assert float(row.pop(score)) == pytest.approx(float(wanted.pop(score)), abs=1e-5)
        assert row == wanted
    assert printed.splitlines()[-1] == capsys.readouterr().out.splitlines()[-1]  # AUC = …


def test_the_result_and_what_is_printed(world, capsys):
    assert world.run() == 0
    rows = world.rows()
    assert list(rows[0]) == ["item_id", "image_a", "image_b", "score_a", "score_b", "label"]
    assert [row["item_id"] for row in rows] == [pair.item_id for pair in world.pairs]
    assert [(row["image_a"], row["image_b"]) for row in rows[:2]] == [tuple(world.names[:2]), tuple(world.names[2:4])]
    assert [row["label"] for row in rows] == ["1", "0", "0"] * 3
    a, b = (np.array([float(row[name]) for row in rows]) for name in ("score_a", "score_b"))
    metrics = pair_metrics(a, b, [row["label"] == "1" for row in rows])

    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"AUC = {metrics.auc:.3f}"
    assert "95 % interval of the AUC: {:.3f} to {:.3f} (9 pairs)".format(*metrics.interval) in lines
    assert f"ROC AUC of score_a - score_b: {metrics.roc_auc:.3f}" in lines
    assert 'always answering "b": 0.667' in lines
    assert "coverage: 9 of 9 pairs, 6 of 6 images" in lines
    assert "POIs: 11 names, 3 of them without a vector; 2 items without POI names" in lines
    assert sum("AUC = " in line for line in lines) == 1


def test_categories_with_twenty_pairs_have_a_line_of_their_own(tmp_path, checkpoint, vocabulary, capsys):
    world = World(tmp_path, checkpoint, vocabulary, repeats=3)
    small = world.pairs[0]._replace(cate_name="小")
    write_table(world.paths["dataset_csv"], [*world.pairs, small])
    assert world.run() == 0
    rows = world.rows()[:27]
    right = sum((float(row["score_a"]) > float(row["score_b"])) == (row["label"] == "1") for row in rows)
    printed = capsys.readouterr().out
    assert re.search(rf"^  {right / 27:.3f} \(0\.\d+ to 0\.\d+\) in +27 pairs of 跟团游$", printed, re.MULTILINE)
    assert "pairs of 小" not in printed


def test_each_image_and_text_is_encoded_once(tmp_path, checkpoint, vocabulary, monkeypatch):
    world = World(tmp_path, checkpoint, vocabulary, repeats=3)
    images, texts = [], []
    read, encode_text = encode.read_image, AlignModel.encode_text
    monkeypatch.setattr(encode, "read_image", lambda path: images.append(path.name) or read(path))
    count_texts = lambda self, **tokens: texts.extend(tokens["input_ids"]) or encode_text(self, **tokens)  # noqa: E731
    monkeypatch.setattr(AlignModel, "encode_text", count_texts)
    assert world.run() == 0
    assert sorted(images) == world.names and len(texts) == len(ITEMS)


def test_pairs_that_cannot_be_scored_are_left_out_counted_and_listed(world, capsys):
    folder = world.paths["image_dir"]
    (folder / "picture0.jpg").unlink()  # of the first, fourth and seventh pair
    (folder / "picture3.jpg").write_text("<html>gone</html>")  # of the second, fifth and eighth
    first = SEPARATOR.join(map(str, world.pairs[2]))
    equal = SEPARATOR.join(map(str, world.pairs[2]._replace(item_id="even", ctr_a=1, ctr_b=1)))
    odd = SEPARATOR.join(map(str, world.pairs[2]._replace(item_id="odd", ctr_a="much")))
    short, long = first.rsplit(SEPARATOR, 1)[0], first + SEPARATOR
    write_table(world.paths["dataset_csv"], world.pairs, (equal, odd, short, long))
    assert world.run() == 0
    assert [row["item_id"] for row in world.rows()] == ["item_2", "item_5", "item_8"]
    printed = capsys.readouterr().out
    for line in (
        "left out: 4",
        "line 10: item even: equal click rates, nothing to predict",
        "line 11: item odd: click rates 'much' and '2' are no numbers",
        "line 12: 9 fields instead of 10",
        "line 13: 11 fields instead of 10",
        "pairs left out because an image is not in the image folder: 3\n  item item_0: picture0.jpg\n",
        "images that cannot be read: 1",
        "picture3.jpg: no image, or of an unknown type",
        "pairs left out because an image cannot be read: 3\n  item item_1: picture3.jpg\n",
        "coverage: 3 of 13 pairs, 2 of 6 images",
    ):
        assert line in printed


def test_an_images_score_depends_on_the_image_and_its_item_alone(world):
    assert world.run() == 0
    together = world.rows()
    turned = [
        pair._replace(oss_url=pair.oss_url2, oss_url2=pair.oss_url, ctr_a=pair.ctr_b, ctr_b=pair.ctr_a)
        for pair in reversed(world.pairs)
    ]
    write_table(world.paths["dataset_csv"], turned)
    assert world.run(batch_size=1, num_workers=1) == 0
    for row, other in zip(together, reversed(world.rows()), strict=True):
        assert (row["image_a"], row["image_b"]) == (other["image_b"], other["image_a"])
        assert float(row["score_a"]) == pytest.approx(float(other["score_b"]), abs=1e-5)
        assert int(row["label"]) == 1 - int(other["label"])


def test_the_npz_gives_the_same_scores(world, tmp_path):
    assert world.run() == 0
    expected = world.rows()
    poi = [world.paths[key] for key in ("poi_image_vectors", "poi_name_vectors", "poi_image_counts")]
    PoiKnowledge.load(*poi, dim=16).save(tmp_path / "poi.npz")
    assert world.run(poi_image_vectors=tmp_path / "poi.npz", poi_name_vectors="absent", poi_image_counts="absent") == 0
    assert world.rows() == expected


def test_equal_scores_are_told(world, capsys):
    same = [pair._replace(oss_url2=pair.oss_url) for pair in world.pairs]
    write_table(world.paths["dataset_csv"], same)
    assert world.run() == 0
    printed = capsys.readouterr().out
    assert 'pairs with equal scores, which count as the answer "b": 9' in printed
    assert printed.endswith("AUC = 0.667\n")


class Malicious:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def write_images(content):
    def change(world):
        for name in world.names:
            (world.paths["image_dir"] / name).unlink()
            if content:
                (world.paths["image_dir"] / name).write_text(content)

    return change


def write_poi(key, content):
    return lambda world: np.save(world.paths[key], content)


def with_code(world):
    np.save(world.paths["poi_image_counts"], {"西湖": Malicious(world.paths["image_dir"].parent / "made")})


def empty_table(world):
    world.paths["dataset_csv"].write_text("")


REFUSED = {  # message -> settings, or a change of the files
    "absent.csv: no such file": {"dataset_csv": "absent.csv"},
    "absent: no such image folder; run download_images.py --dataset ranking": {"image_dir": "absent"},
    "absent.ckpt: no such file": {"model_path": "absent.ckpt"},
    "absent.npy: no such file; run download_release.py": {"poi_name_vectors": "absent.npy"},
    "no such folder for the output file scores.csv": {"output_csv": "absent/scores.csv", "model_path": "absent.ckpt"},
    "run download_release.py --what bert": {"bert_path": "images"},
    "no usable pair; the table is empty": empty_table,
    "has both images of none of the pairs": write_images(None),
    "both images of none of the pairs can be read": write_images("no image"),
    "NaN or infinite numbers for '西湖'": write_poi("poi_image_vectors", {"西湖": np.full(16, np.nan)}),
    "3 numbers for '古镇' instead of 16": write_poi("poi_name_vectors", {"古镇": np.ones(3)}),
    "no dict of POI names": write_poi("poi_image_counts", np.array(["西湖"], dtype=object)),
    "a plain array of float64": write_poi("poi_image_counts", np.ones(3)),
    "mkdir; refused, and nothing of it was run": with_code,
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(message, world, capsys, monkeypatch):
    monkeypatch.chdir(world.paths["image_dir"].parent)
    change = REFUSED[message]
    changes = change if isinstance(change, dict) else change(world) or {}
    assert world.run(**changes) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not world.paths["output_csv"].exists() and not (world.paths["image_dir"].parent / "made").exists()


def test_scores_that_are_no_numbers_are_an_error(world, tmp_path, capsys):
    content = torch.load(world.paths["model_path"], weights_only=True)
    content["state_dict"]["linear2.bias"] *= float("nan")
    torch.save(content, tmp_path / "broken.ckpt")
    assert world.run(model_path=tmp_path / "broken.ckpt") == 1
    error = capsys.readouterr().err
    assert "scores are no finite numbers" in error and error.count("\n") == 1


def test_a_recall_checkpoint_is_told_apart(world, tiny_align, capsys):
    assert world.run(model_path=tiny_align) == 1
    assert "this is a recall checkpoint; the ranking model is wanted" in capsys.readouterr().err


def test_images_of_any_type(world):
    """The real table names PNGs and a GIF among its images; what counts is the content, not the ending."""
    kinds = {Image.open(world.paths["image_dir"] / name).format for name in world.names}
    assert kinds == {"JPEG", "PNG", "GIF", "WEBP"}
    assert world.run() == 0 and len(world.rows()) == len(world.pairs)

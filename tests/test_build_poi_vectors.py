"""build_poi_vectors.py: means, merged names, counts, and a file that local_eval_test.py can use."""

import csv
import shutil

import numpy as np
import pytest
import torch
from conftest import POIS, photograph
from ranking_world import make_pairs, write_ranking_checkpoint, write_table

import build_poi_vectors
import local_eval_test
from models.encode import encode_images, encode_texts
from models.loading import load_align
from models.poi import PoiKnowledge


@pytest.fixture
def build(tmp_path, photos, recall_table, tiny_align, vocabulary):
    """Runs the script on a copy of `photos`, and gives what it wrote."""
    shutil.copytree(photos, tmp_path / "photos")

    def run(expected=0, **changes):
        settings = {
            "image_dir": tmp_path / "photos",
            "dataset_csv": recall_table,
            "model_path": tiny_align,
            "bert_path": vocabulary,
            "output_npz": tmp_path / "poi.npz",
            "device": "cpu",
        } | changes
        flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        assert build_poi_vectors.main(flags) == expected
        return PoiKnowledge.load(tmp_path / "poi.npz", "", "", dim=16) if expected == 0 else None

    return run


@pytest.fixture
def vector_of(tiny_align, vocabulary):
    towers = load_align(tiny_align, str(vocabulary), "cpu")
    return lambda path: encode_images(towers, [path]).vectors[0]


def test_means_names_and_counts(build, photos, vector_of, tiny_align, vocabulary, capsys):
    poi = build()
    names = list(dict.fromkeys(POIS.values()))
    assert list(poi.counts) == names and poi.counts["海底世界"] == (3, 0, 0)
    assert poi.name_vectors.keys() == poi.image_vectors.keys() == set(names)
    wanted = [vector_of(photos / name) for name in ("10060_1.jpg", "10060_2.png", "10060_3.jpg")]
    torch.testing.assert_close(poi.image_vectors["海底世界"], sum(wanted) / 3)
    assert poi.image_vectors["海底世界"].norm() < 0.9999, "the mean is not normalised again"
    name_vectors = encode_texts(load_align(tiny_align, str(vocabulary), "cpu"), names)
    assert all(torch.allclose(poi.name_vectors[name], name_vectors[name], atol=1e-6) for name in names)
    printed = capsys.readouterr().out
    assert "images: 9 encoded, 0 unreadable" in printed
    assert "POIs: 4 in the table, 1 merged with another of the same name" in printed
    assert "wrote 3 POI names" in printed and printed.endswith("0 without an image vector\n")


def test_pois_of_one_name_share_their_images(build, tmp_path, vector_of):
    photograph(50).save(tmp_path / "photos" / "20002_2.jpg")  # the second 西湖
    poi = build()
    files = ["10077_1.jpg", "10077_2.png", "20002_2.jpg", "10077_3.jpg"]
    wanted = torch.stack([vector_of(tmp_path / "photos" / name) for name in files]).mean(dim=0)
    torch.testing.assert_close(poi.image_vectors["西湖"], wanted)
    assert poi.counts["西湖"] == (4, 0, 0)


def test_the_first_ten_by_rank(build, tmp_path, vector_of):
    for rank in range(4, 13):
        photograph(60 + rank).save(tmp_path / "photos" / f"10060_{rank}.jpg")
    poi = build()
    files = [f"10060_{rank}.{'png' if rank == 2 else 'jpg'}" for rank in range(1, 11)]  # 10 comes after 9, not after 1
    wanted = torch.stack([vector_of(tmp_path / "photos" / name) for name in files]).mean(dim=0)
    torch.testing.assert_close(poi.image_vectors["海底世界"], wanted)
    assert poi.counts["海底世界"] == (12, 0, 0)


def test_what_is_left_out_is_counted_and_listed(build, tmp_path, vector_of, capsys):
    folder = tmp_path / "photos"
    (folder / "10060_1.jpg").write_text("no image")
    for path in folder.glob("10077_*"):
        path.write_text("no image")
    shutil.copy(folder / "10060_2.png", folder / "999_1.png")
    shutil.copy(folder / "10060_2.png", folder / "10060.png")
    poi = build()
    torch.testing.assert_close(
        poi.image_vectors["海底世界"], (vector_of(folder / "10060_2.png") + vector_of(folder / "10060_3.jpg")) / 2
    )
    assert poi.counts["海底世界"] == (2, 0, 0) and poi.counts["西湖"] == (0, 0, 0)
    assert "西湖" in poi.name_vectors and "西湖" not in poi.image_vectors
    printed = capsys.readouterr().out
    assert "belong to no POI of the table: 2\n  10060.png\n  999_1.png" in printed
    assert "images left out because they cannot be read: 4" in printed
    assert "images: 5 encoded, 4 unreadable" in printed and printed.endswith("1 without an image vector\n")


def test_the_evaluation_runs_on_what_was_written(build, tmp_path, photos, tiny_align, vocabulary, capsys):
    build()
    checkpoint = write_ranking_checkpoint(tmp_path / "ranking.ckpt", tiny_align)
    pairs = make_pairs([path.name for path in sorted(photos.iterdir())])
    table = write_table(tmp_path / "pairs.csv", pairs)
    output = tmp_path / "scores.csv"
    flags = (
        f"--dataset-csv {table} --image-dir {photos} --model-path {checkpoint} --bert-path {vocabulary} --device cpu "
    )
    flags += f"--poi-image-vectors {tmp_path / 'poi.npz'} --output-csv {output}"
    assert local_eval_test.main(flags.split()) == 0
    with open(output, encoding="utf-8", newline="") as file:
        with_vectors = [row["score_a"] for row in csv.DictReader(file)]
    poi = PoiKnowledge.load(tmp_path / "poi.npz", "", "", dim=16)
    assert "without a vector" in capsys.readouterr().out

    PoiKnowledge({}, {}, poi.counts, 16).save(tmp_path / "poi.npz")
    assert local_eval_test.main(flags.split()) == 0
    with open(output, encoding="utf-8", newline="") as file:
        without = [row["score_a"] for row in csv.DictReader(file)]
    changed = np.array(with_vectors, dtype=float) != np.array(without, dtype=float)
    known = ["西湖" in pair.poi_names or "海底世界" in pair.poi_names for pair in pairs]
    assert changed.tolist() == known, "the vectors matter to just the items that name their POIs"


def test_bad_input_is_one_line_and_nothing_is_written(build, tmp_path, tiny_align, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    photograph(1).save(strangers / "999_1.jpg")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "10060_1.jpg").write_text("no image")
    ranking = write_ranking_checkpoint(tmp_path / "ranking.ckpt", tiny_align)
    for message, changes in {
        "absent: no such image folder": {"image_dir": tmp_path / "absent"},
        "empty: holds no image": {"image_dir": empty},
        "strangers: no image belongs to a POI": {"image_dir": strangers},
        "broken: none of its 1 images can be read": {"image_dir": broken},
        "this is a ranking checkpoint; the recall model is wanted": {"model_path": ranking},
        "absent.csv: no such file": {"dataset_csv": tmp_path / "absent.csv"},
        "no such folder for the output file poi.npz": {"output_npz": tmp_path / "absent" / "poi.npz"},
    }.items():
        build(expected=1, **changes)
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "poi.npz").exists()

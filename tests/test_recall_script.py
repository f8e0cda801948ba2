"""Stage 1's script from end to end on tiny files: what it writes, what it says, and how it refuses."""

import csv
import os
import re
import shutil

import pytest
import torch
from conftest import POIS, photograph

import align_recall_test_with_mmkg_model as script
from models.images import read_image
from models.loading import load_align
from models.recall_scores import write_recall_scores


def read_rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def run(tiny_align, vocabulary, photos, recall_table, tmp_path):
    """Call the script with tiny files; returns (exit code, rows of its result or None)."""

    def call(**changes):
        settings = {
            "model_path": tiny_align,
            "bert_path": vocabulary,
            "image_dir": photos,
            "dataset_csv": recall_table,
            "output_csv": tmp_path / "scores.csv",
        } | changes
        code = script.main(
            [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        )
        output = settings["output_csv"]
        return code, read_rows(output) if output.is_file() else None

    return call


def test_vectors_that_are_no_numbers_are_an_error_not_a_result(run, tiny_align, tmp_path, capsys):
    content = torch.load(tiny_align, weights_only=True)
    for layer, named in (("image_hidden_layer.weight", "10060_1.jpg"), ("text_hidden_layer.weight", "西湖")):
        broken = content["state_dict"] | {layer: content["state_dict"][layer] * float("nan")}
        torch.save(content | {"state_dict": broken}, tmp_path / "broken.pth")
        assert run(model_path=tmp_path / "broken.pth") == (1, None)
        error = capsys.readouterr().err
        assert f"{named} on; its weights are damaged\n" in error and error.count("\n") == 1


def test_every_poi_times_every_image_in_one_order(run, tiny_align, vocabulary, photos, capsys):
    code, rows = run()
    images = sorted(photos.iterdir(), key=lambda path: path.name)
    assert code == 0
    assert [row[:3] for row in rows] == [[poi, name, str(image)] for poi, name in POIS.items() for image in images]

    model, preprocess, tokenize = load_align(tiny_align, str(vocabulary), "cpu")
    with torch.no_grad():
        image_vector = model.encode_image(preprocess(read_image(images[4]))[None])[0]
        scores = model.encode_text(**tokenize(list(POIS.values()))) @ image_vector
    written = [float(row[3]) for row in rows if row[2] == str(images[4])]
    assert written == pytest.approx(scores.tolist(), abs=1e-5)

    printed = capsys.readouterr().out
    assert "images: 9 scored, 0 unreadable, 0 of no POI in the table" in printed
    assert "POIs: 4 in the table, 1 of them without any image" in printed
    assert f"model_path = {tiny_align}" in printed


def test_results_do_not_depend_on_batches_and_threads(run):
    results = [run(batch_size=batch, num_workers=workers)[1] for batch, workers in ((1, 1), (4, 3), (9, 2))]
    for other in results[1:]:
        assert [row[:3] for row in other] == [row[:3] for row in results[0]]
        assert [float(row[3]) for row in other] == pytest.approx([float(row[3]) for row in results[0]], abs=1e-6)


def test_top_k_keeps_the_best_of_each_poi(run):
    _, every = run()
    _, best = run(top_k=2)
    for poi in POIS:
        scored = sorted(((float(row[3]), row) for row in every if row[0] == poi), key=lambda pair: -pair[0])
        assert [row for row in best if row[0] == poi] == [row for _, row in scored[:2]]


def test_scores_are_written_so_that_they_read_back_exactly(tmp_path):
    torch.manual_seed(1)
    images, text = torch.randn(50, 8), torch.randn(8)
    rows = write_recall_scores(
        tmp_path / "s.csv", [("1", 'a,"b"', text)], [f'x,"{i}%d".jpg' for i in range(50)], images
    )
    read = read_rows(tmp_path / "s.csv")
    assert rows == 50 and [row[:3] for row in read] == [["1", 'a,"b"', f'x,"{i}%d".jpg'] for i in range(50)]
    assert torch.equal(torch.tensor([float(row[3]) for row in read]), images @ text)


def test_broken_images_and_strangers_are_counted_and_the_rest_goes_on(run, photos, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(photos, folder)
    (folder / "10060_4.jpg").write_bytes(b"no image")
    (folder / "10060_5.png").write_bytes((folder / "10060_2.png").read_bytes()[:-800])
    (folder / "notes.txt").write_text("no image file at all")
    (folder / ".10060_6.jpg").write_text("hidden")
    photograph(50).save(folder / "cover.jpg")
    photograph(51).save(folder / "99999_1.jpg")
    code, rows = run(image_dir=folder)
    printed = capsys.readouterr().out
    assert code == 0 and len(rows) == len(POIS) * 10
    assert "images: 10 scored, 2 unreadable, 1 of no POI in the table" in printed
    assert "10060_4.jpg: no image" in printed and "10060_5.png: image file is truncated" in printed
    assert "cover.jpg" in printed


def lines(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def undecodable_name(folder):
    photograph(1).save(os.fsencode(folder / "10060_1") + b"\xb0.jpg", "JPEG")
    return folder


BAD = {
    "file name .* rename it": lambda tmp: {"image_dir": undecodable_name(tmp)},
    "no such file.*download_release": lambda tmp: {"model_path": tmp / "none.pth"},
    r"dataset\.csv: no such file": lambda tmp: {"dataset_csv": tmp / "dataset.csv"},
    r"t\.csv: the table is empty": lambda tmp: {"dataset_csv": lines(tmp / "t.csv", "\n")},
    r"t\.csv, line 2: 6 fields instead of 7": lambda tmp: {
        "dataset_csv": lines(tmp / "t.csv", "1,a,u,1,2,3,4\n1,a,u,1,2,3\n")
    },
    r"t\.csv, line 2: not UTF-8": lambda tmp: {
        "dataset_csv": lines(tmp / "t.csv", b"1,a,u,1,2,3,4\n1,\xb0\xa1,u,1,2,3,4\n")
    },
    r"t\.csv, line 1: poi_id '\.\./x'": lambda tmp: {"dataset_csv": lines(tmp / "t.csv", "../x,a,u,1,2,3,4\n")},
    "no such image folder": lambda tmp: {"image_dir": tmp / "nowhere"},
    "holds no image": lambda tmp: {"image_dir": tmp},
    "no such folder for the output": lambda tmp: {"output_csv": tmp / "nowhere" / "out.csv"},
    "device cuda:99": lambda tmp: {"device": "cuda:99"},
    "neither a folder with a vocab.txt full of words": lambda tmp: {"bert_path": tmp},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_and_leaves_nothing_behind(message, run, tmp_path, capsys):
    code, rows = run(**BAD[message](tmp_path))
    error = capsys.readouterr().err.strip()
    assert code == 1 and rows is None
    assert re.search(message, error) and "\n" not in error and error.startswith("error: ")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".partial", "scores.csv"))]


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"--{key.replace('_', '-')}" in text for key in script.CONFIG)
    assert "images at a time in each worker; None: 2 on a CPU, 64 on a GPU (default: None)" in text

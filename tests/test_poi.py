"""POI knowledge: an item's best five POIs, their vectors, the files they are read from, and wrong files."""

import os

import numpy as np
import pytest
import torch
from ranking_world import COUNTS, WITH_VECTOR, write_poi_files

from models.errors import InputError
from models.poi import PoiKnowledge, item_text

DIM = 16


@pytest.fixture
def files(tmp_path):
    return write_poi_files(tmp_path, DIM)


@pytest.fixture
def poi(files):
    return PoiKnowledge.load(*files, dim=DIM)


def test_the_best_five_by_images_then_by_place(poi):
    names = "西湖,乐园,东门,夜景,日出,海底世界,古镇,山"
    assert poi.best(names) == ["山", "古镇", "海底世界", "日出", "乐园"]  # 乐园 and 东门 count 10 each
    assert poi.best(names.replace("乐园,东门", "东门,乐园"))[-1] == "东门"
    assert poi.best("无名,西湖,不知") == ["西湖", "无名", "不知"]  # unknown names count 0
    assert poi.best("西湖, 古镇") == [" 古镇", "西湖"]  # looked up without the blank, kept with it
    assert poi.best("西湖,西湖") == ["西湖", "西湖"]
    assert poi.best("") == poi.best("山") == []


def test_features(poi, files):
    images, names = (np.load(path, allow_pickle=True).item() for path in files[:2])  # made by this test
    image, name, count = poi.features("无名,西湖, 古镇")
    assert image.shape == name.shape == (5, DIM) and count == 3
    for row, poi_name in enumerate([" 古镇", "西湖"]):
        assert torch.equal(image[row], torch.tensor(images[poi_name])) and torch.equal(name[row], names[poi_name])
    assert not image[2:].any() and not name[2:].any()
    for poi_names in ("", "山"):
        image, name, count = poi.features(poi_names)
        assert not image.any() and not name.any() and count == 0


def test_names_without_a_vector_are_told(poi):
    del poi.name_vectors["西湖"]
    assert poi.without_vector(["西湖", "古镇", "无名", " 东门"]) == ["西湖", "无名", " 东门"]


def test_an_items_text():
    assert item_text("标题", "西湖,古镇") == "西湖,古镇"
    assert item_text("标题", "") == "标题"
    assert item_text("标题", "山") == "山"


def test_the_npz_says_the_same(poi, tmp_path):
    del poi.image_vectors["西湖"], poi.name_vectors["东门"]  # the three need not know the same names
    poi.save(tmp_path / "poi.npz")
    loaded = PoiKnowledge.load(tmp_path / "poi.npz", "not looked at", "", dim=DIM)
    assert loaded.counts == poi.counts == {name: tuple(counts) for name, counts in COUNTS.items()}
    for ours, theirs in ((poi.image_vectors, loaded.image_vectors), (poi.name_vectors, loaded.name_vectors)):
        assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert np.load(tmp_path / "poi.npz", allow_pickle=False)["image_vectors"].dtype == np.float32


def test_an_npz_without_any_vector(tmp_path):
    PoiKnowledge({}, {}, {}, DIM).save(tmp_path / "poi.npz")
    loaded = PoiKnowledge.load(tmp_path / "poi.npz", "", "", dim=DIM)
    assert loaded.features("西湖,古镇")[2] == 2 and loaded.best("西湖,古镇") == ["西湖", "古镇"]


def load_with(files, number, content):
    np.save(files[number], content)
    return PoiKnowledge.load(*files, dim=DIM)


VECTOR = np.ones(DIM, dtype=np.float32)
WRONG = {
    "image_vectors.npy: no dict of POI names": (0, ["西湖"]),
    "name_vectors.npy: no dict of POI names": (1, {1: VECTOR}),
    "image_vectors.npy: 8 numbers for '东门' instead of 16": (0, {"西湖": VECTOR, "东门": VECTOR[:8]}),
    "name_vectors.npy: NaN or infinite numbers for '东门'": (1, {"西湖": VECTOR, "东门": VECTOR * np.nan}),
    "image_vectors.npy: NaN or infinite numbers for '西湖'": (0, {"西湖": torch.full((DIM,), torch.inf)}),
    "name_vectors.npy: what it has for '西湖' are no numbers": (1, {"西湖": ["a"] * DIM}),
    "counts.npy: 2 numbers for '西湖' instead of 3": (2, {"西湖": [1, 2]}),
    "counts.npy: what it has for '西湖' are no numbers": (2, {"西湖": {"a": 1}}),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_files_are_named(message, files):
    number, content = WRONG[message]
    with pytest.raises(InputError, match=message):
        load_with(files, number, np.array(content, dtype=object) if isinstance(content, list) else content)


@pytest.mark.parametrize("shape", [(DIM,), (1, DIM)])
@pytest.mark.parametrize("kind", [np.ones, torch.ones, lambda shape: np.ones(shape).tolist()])
def test_vectors_may_be_arrays_tensors_or_lists(kind, shape, files):
    assert load_with(files, 0, {"西湖": kind(shape)}).image_vectors["西湖"].equal(torch.ones(DIM))


def test_a_missing_file_is_named(files):
    files[2].unlink()
    with pytest.raises(InputError, match=r"counts.npy: no such file; run download_release.py --what poi"):
        PoiKnowledge.load(*files, dim=DIM)
    with pytest.raises(InputError, match=r"absent.npz: no such file"):
        PoiKnowledge.load("absent.npz", *files[1:], dim=DIM)


def test_a_wrong_npz_is_named(poi, tmp_path):
    path = tmp_path / "poi.npz"
    poi.save(path)
    arrays = dict(np.load(path))
    for change in (
        {"image_names": arrays["image_names"].astype(object)},  # pickled, and not read
        {"image_names": arrays["counts"]},
        {"counts": arrays["counts"][1:]},
        {"name_vectors": None},
    ):
        np.savez(path, **{name: value for name, value in (arrays | change).items() if value is not None})
        with pytest.raises(InputError, match=r"poi.npz: no .npz of POI vectors, or damaged; make it with build_poi"):
            PoiKnowledge.load(path, "", "", dim=DIM)
    poi.save(path)
    with pytest.raises(InputError, match=f"poi.npz: {DIM} numbers for '{WITH_VECTOR[0]}' instead of 512"):
        PoiKnowledge.load(path, "", "", dim=512)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"poi.npz: no .npz of POI vectors, or damaged"):
        PoiKnowledge.load(path, "", "", dim=DIM)


class Malicious:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_code_in_an_npz_is_not_run(poi, tmp_path):
    path = tmp_path / "poi.npz"
    poi.save(path)
    arrays = dict(np.load(path)) | {"image_names": np.array([Malicious(tmp_path / "made")])}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"poi.npz: no .npz of POI vectors"):
        PoiKnowledge.load(path, "", "", dim=DIM)
    assert not (tmp_path / "made").exists()
    with np.load(path, allow_pickle=True) as file:
        assert file["image_names"].size and (tmp_path / "made").is_dir(), "it would run if it were let"

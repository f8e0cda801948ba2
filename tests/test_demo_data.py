"""The demo's world: in the formats that the scripts read, the same for the same seed, and without what is to be new."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

import make_demo_data as script
from benchmarks import demo_report
from models.demo_world import COLOURS, PLACES, TIMES, WEATHERS, Sight, all_sights, draw
from models.images import list_images, poi_of_image, read_image
from models.pairs_data import check_contrast, read_text_images, read_triples
from models.tables import poi_names, read_pairs, read_recall_table
from models.text import Tokenize

SMALL = {"pois": 12, "new_pois": 3, "item_images": 400, "train_pairs": 60, "test_pairs": 20}


def make(folder, **settings):
    settings = SMALL | {"output_dir": folder} | settings
    return script.main([word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))])


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """Drawing fewer of each kind keeps the tests quick."""
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("POI_IMAGES", 5), ("TEST_IMAGES", 3), ("RANKING_IMAGES", 6)):
            patch.setattr(script, name, count)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "world"
    assert make(folder) == 0
    return folder


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_draws_the_same_world(world, tmp_path):
    assert make(tmp_path / "again") == 0 and make(tmp_path / "other", seed=1) == 0
    assert contents(tmp_path / "again") == contents(world)
    assert contents(tmp_path / "other")["align_pairs.csv"] != contents(world)["align_pairs.csv"]


@pytest.mark.parametrize("name, pois", [("poi_images", 12), ("val_images", 9), ("recall_images", 12)])
def test_recall_tables_and_their_images_belong_together(world, name, pois):
    rows = read_recall_table(world / f"{name}.csv")
    images = list_images(world / name)
    assert {f"{row.poi_id}_{row.rank_number}.jpg" for row in rows} == {path.name for path in images}
    names = poi_names(rows)
    assert len(names) == len(set(names.values())) == pois
    assert {poi_of_image(path.name) for path in images} == names.keys()
    row = rows[0]
    assert read_image(world / name / f"{row.poi_id}_{row.rank_number}.jpg").size == (int(row.width), int(row.height))


def test_no_image_is_in_training_and_test(world):
    digests = Counter(digest for file, digest in contents(world).items() if file.endswith(".jpg"))
    assert set(digests.values()) == {1}


def test_new_names_are_nowhere_in_training_but_their_parts_are(world):
    new = (world / "new_names.txt").read_text(encoding="utf-8").split()
    pairs, triples = read_text_images(world / "align_pairs.csv"), read_triples(world / "align_triples.csv")
    texts = "\n".join([pair.text for pair in pairs] + [text for triple in triples for text in triple])
    assert len(new) == 3 and not any(name in texts for name in new)
    assert set("".join(new)) <= set(texts)
    ids = {row.poi_id for row in read_recall_table(world / "poi_images.csv") if row.poi_name in new}
    used = {pair.image for pair in pairs} | {triple.tail for triple in triples if triple.image}
    assert not any(poi_of_image(image.removeprefix("poi_images/")) in ids for image in used if "poi_images" in image)
    assert set(new) <= set(poi_names(read_recall_table(world / "recall_images.csv")).values())


def test_training_data_can_be_trained_on(world):
    pairs, triples = read_text_images(world / "align_pairs.csv"), read_triples(world / "align_triples.csv")
    assert len(pairs) == 9 * script.POI_IMAGES + 400
    assert all((world / pair.image).is_file() for pair in pairs)
    assert {triple.relation for triple in triples} == {"has_cate", "has_image", "has_title"}
    check_contrast(triples, "triples")


def test_every_text_is_in_the_vocabulary(world):
    tokenize = Tokenize(str(world / "bert"))
    rows, _ = read_pairs(world / "ranking_train.csv")
    texts = [sight.name for sight in all_sights()] + [row.title for row in rows] + [row.poi_names for row in rows]
    triples = read_triples(world / "align_triples.csv")
    texts += [triple.head for triple in triples] + [triple.tail for triple in triples if not triple.image]
    unknown = tokenize.tokenizer.token_to_id("[UNK]")
    assert not any(unknown in tokenize([text])["input_ids"] for text in texts if text)


@pytest.mark.parametrize("part, count", [("train", 60), ("val", 20), ("test", 20)])
def test_ranking_pairs_have_their_images(world, part, count):
    pairs, left_out = read_pairs(world / f"ranking_{part}.csv")
    assert len(pairs) == count and not left_out
    for pair in pairs:
        assert pair.image_a != pair.image_b and {pair.ctr_a, pair.ctr_b} == {1, 2}
        assert (world / "ranking_images" / pair.image_a).is_file() and (
            world / "ranking_images" / pair.image_b
        ).is_file()


def test_clicks_depend_on_the_look_and_on_the_pois():
    """Knowing the look alone predicts clicks better than chance, and knowing the POIs as well better still."""
    random = np.random.default_rng(0)
    pois = [all_sights()[index] for index in random.permutation(len(all_sights()))[:12]]
    shown = {f"{poi}_{number}.jpg": sight for poi, sight in enumerate(pois) for number in range(5)}
    right = {"look": [], "both": []}
    for number in range(1500):
        fields = script.pair(str(number), pois, shown, random).split("$record$")
        sights = [shown[url.rpartition("/")[2]] for url in fields[1:3]]
        look = [script.APPEAL[sight.weather] + script.APPEAL[sight.time] for sight in sights]
        own = [script.OWN_POI * (sight.name in fields[9].split(",")) for sight in sights]
        a_wins = float(fields[3]) > float(fields[4])
        if look[0] != look[1] and fields[9]:
            right["look"].append((look[0] > look[1]) == a_wins)
            right["both"].append((look[0] + own[0] > look[1] + own[1]) == a_wins)
    look, both = (np.mean(right[key]) for key in ("look", "both"))
    assert 0.55 < look < 0.8 and look + 0.08 < both < 0.99


def test_every_part_of_a_name_can_be_seen():
    """Whichever part of the name is changed, pictures drawn with the same dice are no longer the same."""

    def mean_picture(sight):
        random = np.random.default_rng(0)
        pictures = [draw(sight, random).resize((48, 48)) for _ in range(40)]
        return np.mean([np.asarray(picture, np.float32) for picture in pictures], axis=0)

    base = Sight("晴", "午", "红", "塔")
    picture = mean_picture(base)
    for field, choices in zip(Sight._fields, (WEATHERS, TIMES, COLOURS, PLACES), strict=True):
        for choice in choices:
            changed = base._replace(**{field: choice})
            assert changed == base or np.abs(mean_picture(changed) - picture).mean() > 1.5, choice


def test_rain_and_snow_fall():
    """Nothing else puts fine detail into the sky."""

    def detail(weather):
        random = np.random.default_rng(0)
        skies = [np.asarray(draw(Sight(weather, "午", "红", "城"), random), np.float32)[:30] for _ in range(30)]
        return np.mean([np.abs(np.diff(sky, axis=1)).mean() for sky in skies])

    assert min(detail("雨"), detail("雪")) > 1.1 * max(detail("晴"), detail("雾")), [detail(w) for w in WEATHERS]


def test_names_of_the_sights_are_distinct():
    assert len({sight.name for sight in all_sights()}) == 576


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"new_pois": 12}, "pois 12, new_pois 12: out of 576 sights"),
        ({"pois": 300}, "pois 300"),
    ],
)
def test_too_many_pois(tmp_path, capsys, settings, message):
    assert make(tmp_path / "world", **settings) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "world").exists()


def test_a_folder_in_use_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert make(tmp_path) == 1 and make(tmp_path / "absent" / "world") == 1
    errors = capsys.readouterr().err.splitlines()
    assert "is there already; delete it, or choose another output_dir" in errors[0] and "no such folder" in errors[1]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_report_stands_beside_chance(tmp_path, capsys):
    (tmp_path / "new_names.txt").write_text("雾夜白亭\n", encoding="utf-8")
    scores = {"1": (0.9, 0.8, 0.1, 0.2), "2": (0.9, 0.8, 0.1, 0.2)}  # POI 2 finds POI 1's images
    rows = [
        f"{poi},{name},images/{owner}_{number}.jpg,{scores[poi][2 * (owner == '2') + number]}"
        for poi, name in (("1", "晴午红塔"), ("2", "雾夜白亭"))
        for owner in ("1", "2")
        for number in (0, 1)
    ]
    (tmp_path / "recall_scores.csv").write_text("\n".join(rows), encoding="utf-8")
    for name, score in (("pair_scores.csv", 2), ("zero_vectors_scores.csv", 0)):
        lines = ["item_id,image_a,image_b,score_a,score_b,label", f"1,a.jpg,b.jpg,{score},1,1", "2,a.jpg,b.jpg,0,1,0"]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    assert demo_report.main(["--demo-dir", str(tmp_path)]) == 0
    figures = [line.split()[-2:] for line in capsys.readouterr().out.splitlines() if re.search(r"\d\.\d{3}$", line)]
    assert figures == [["1.000", "1.000"]] * 2 + [
        ["0.500", "0.500"],
        ["0.000", "0.500"],
        ["1.000", "0.500"],
        ["0.500"] * 2,
    ]

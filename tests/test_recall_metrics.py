"""recall@K and its reader: equal to the definition read literally, and every malformed row found."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate

from models import InputError, recall_grid, recall_results
from models.recall_grid import read_grid
from models.recall_metrics import bootstrap_interval, recall_at_k
from models.recall_results import read_recall_scores, read_rows
from models.recall_scores import write_recall_scores


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parent.parent / "align_recall@K.py"
    spec = importlib.util.spec_from_file_location("align_recall_at_k", path)  # `@` cannot be imported
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write(path: Path, rows) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def random_rows(seed: int, levels: int, pois: int = 30, each: int = 3) -> list[tuple]:
    """All pairs of POIs and images, in any order; scores take few levels, so that ties are everywhere."""
    generator = np.random.default_rng(seed)
    ids = [f"{number:03d}" if number % 2 else str(number) for number in range(pois)]  # "007" beside "7" and the like
    owners = [*ids[: pois - 4], "7", "stranger", "01"]  # some POIs without an image, some images of no POI
    images = [f"some folder/{owner}_{rank}.jpg" for owner in owners for rank in range(each)]
    rows = [(poi, f"名 {poi}", image, generator.integers(levels) / 8 - 1) for poi in ids for image in images]
    generator.shuffle(rows)
    return [tuple(row) for row in rows]


def brute_force(rows, k: int) -> float:
    """recall@K as SPEC.md words it: sorted() is stable, so of equal scores the first in the file wins."""
    hits = []
    for poi in dict.fromkeys(row[0] for row in rows):
        best = sorted((row for row in rows if row[0] == poi), key=lambda row: -float(row[3]))[:k]
        hits.append(any(Path(row[2]).name.split("_")[0] == poi for row in best))
    return sum(hits) / len(hits)


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_recall_equals_its_definition_read_literally(tmp_path, levels):
    for seed in range(3):
        rows = random_rows(seed, levels)
        scores = read_recall_scores(write(tmp_path / "scores.csv", rows))
        for k in (1, 2, 5, 10, 50):
            assert recall_at_k(scores, k) == pytest.approx(brute_force(rows, k))


def test_recall_equals_torchmetrics_hit_rate(tmp_path):
    rows = random_rows(1, 10**9)  # without ties, which torchmetrics leaves to torch.topk
    scores = read_recall_scores(write(tmp_path / "scores.csv", rows))
    own = [image.rsplit("/", 1)[1].split("_")[0] == poi for poi, _, image, _ in rows]
    for k in (1, 5, 10):
        metric = RetrievalHitRate(top_k=k, empty_target_action="neg")
        expected = metric(torch.tensor(scores.score), torch.tensor(own), indexes=torch.tensor(scores.poi).long())
        assert recall_at_k(scores, k) == pytest.approx(expected.item())


def test_what_the_recall_script_writes_is_read_back(tmp_path):
    pois = [("1", '普陀山,"南海"'), ("007", "two\nlines"), ("7", "NA"), ("8", "798")]
    images = [f"a,b/{owner}_1.jpg" for owner in ("1", "007", "7", "8")]
    vectors = torch.tensor([[0.123456789, 1e-7, -0.5, 0.1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    rows = [(poi, name, vectors[index]) for index, (poi, name) in enumerate(pois)]
    write_recall_scores(tmp_path / "scores.csv", rows, images, torch.eye(4))
    scores = read_recall_scores(tmp_path / "scores.csv")
    assert list(zip(scores.poi_ids, scores.poi_names, strict=True)) == pois
    assert scores.images == images
    assert np.array_equal(scores.score.reshape(4, 4).astype(np.float32), vectors.numpy())
    assert scores.poi.tolist() == np.repeat(range(4), 4).tolist()


@pytest.fixture
def grid(tmp_path, monkeypatch) -> Path:
    """A result as the recall script writes it, many times as long as what is read at a time."""
    monkeypatch.setattr(recall_grid, "BLOCK_BYTES", 300)
    vectors = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    pois = [(str(10 ** (number % 3) + number), f"名{number}" * (number % 2), vectors[number]) for number in range(9)]
    images = [f"文件夹/{poi}_{'1' * number}.jpg" for number, (poi, _, _) in enumerate(pois)]
    write_recall_scores(tmp_path / "grid.csv", pois, images, torch.eye(9))
    return tmp_path / "grid.csv"


def test_whole_runs_are_read_like_single_rows(grid):
    names, images, score = read_grid(grid)
    slow = read_rows(grid)
    assert (list(names), list(names.values()), images) == (slow.poi_ids, slow.poi_names, slow.images)
    assert np.array_equal(score.ravel(), slow.score)
    fast = read_recall_scores(grid)
    assert np.array_equal(fast.poi, slow.poi) and np.array_equal(fast.image, slow.image)


def test_a_changed_byte_anywhere_is_read_like_single_rows(grid, monkeypatch):
    """Every kind of damage, a byte at a time: the fast reader agrees with the slow one, or leaves it to it."""
    whole, generator = grid.read_bytes(), np.random.default_rng(0)
    fast, refused = 0, 0
    for _ in range(400):
        place, byte = generator.integers(len(whole)), generator.choice(list(b'0123456789,,,"\n\r_ \xe5e.-'))
        grid.write_bytes(whole[:place] + bytes([byte]) * generator.integers(3) + whole[place + 1 :])
        fast += read_grid(grid) is not None
        results = [outcome(grid)]
        with monkeypatch.context() as patch:
            patch.setattr(recall_results, "read_grid", lambda path: None)
            results.append(outcome(grid))
        assert results[0] == results[1]
        refused += isinstance(results[0], str)
    assert fast > 20 and refused > 100


def outcome(path: Path):
    try:
        scores = read_recall_scores(path)
    except InputError as error:
        return str(error)
    return [scores.poi_ids, scores.poi_names, scores.images, scores.poi.tolist(), scores.score.tolist()]


def test_scores_of_other_tools(tmp_path):
    """A byte order mark, Windows line ends and paths, exponents; scores that differ in the last digit do not tie."""
    text = "\ufeffp,n,C:\\x\\q_1.jpg,1e-3\r\np,n,C:\\x\\p_1.jpg,1.0000000000000002e-3\r\n\r\n"
    (tmp_path / "scores.csv").write_bytes(text.encode())
    assert recall_at_k(read_recall_scores(tmp_path / "scores.csv"), 1) == 1


def test_a_result_of_best_images_only(tmp_path, script, capsys):
    rows = [
        ("1", "a", "2_1.jpg", 0.9),
        ("1", "a", "1_1.jpg", 0.8),
        ("2", "b", "3_1.jpg", 0.9),
        ("2", "b", "1_1.jpg", 0.1),
    ]
    path = write(tmp_path / "scores.csv", rows)
    assert script.main(["--scores-csv", str(path), "--recall-k", "1", "2"]) == 0
    assert "recall@1 = 0.000\n" in (out := capsys.readouterr().out) and "recall@2 = 0.500\n" in out
    assert script.main(["--scores-csv", str(path), "--recall-k", "3"]) == 1
    assert "only the 2 best images" in capsys.readouterr().err


def test_interval_is_the_published_one():
    hit = np.arange(500) < 394  # 0.788
    low, high = bootstrap_interval(hit)
    assert (low, high) == pytest.approx((0.788 - 0.036, 0.788 + 0.036), abs=0.003)
    assert (low, high) == bootstrap_interval(hit)  # seeded


GOOD = "1,a,x/1_1.jpg,0.5\n1,a,x/2_1.jpg,0.25\n2,b,x/1_1.jpg,0.5\n2,b,x/2_1.jpg,1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (GOOD + "2,b,x/3_1.jpg,high\n", "line 5: score 'high' is no finite number"),
        (GOOD + "2,b,x/3_1.jpg,nan\n", "line 5: score 'nan'"),
        (GOOD + "2,b,x/3_1.jpg,inf\n", "line 5: score 'inf'"),
        (GOOD + "2,b,x/3_1.jpg,\n", "line 5: score ''"),
        (GOOD + "2,b,x/3_1.jpg\n", "line 5: 3 fields instead of 4"),
        (GOOD + "2,b,x/3_1.jpg,0.5,0.5\n", "line 5: 5 fields instead of 4"),
        ("1,a,x/1_1.jpg,0.5,0.5\n" + GOOD, "line 1: 5 fields instead of 4"),
        ("poi_id,poi_name,image_path,score\n" + GOOD, "line 1: score 'score'"),
        (GOOD + "2,b,a_b/31.jpg,0.5\n", "line 5: image 'a_b/31.jpg'"),
        (GOOD + ",b,x/3_1.jpg,0.5\n", "line 5: no poi_id"),
        (",b,x/1_1.jpg,0.5\n,b,x/2_1.jpg,0.5\n", "line 1: no poi_id"),
        ('1,a,x/1_1.jpg,1\n2,b,x/1_1.jpg,1\n3,"b"c,x/1_1.jpg,1\n', "line 3: ',' expected after"),
        (GOOD.encode() + "3,普陀山,x/1_1.jpg,0.5\n".encode("gbk"), "line 5: not UTF-8"),
        ('1,"a\nb",x/1_1.jpg,0.5\n1,a,x/1_1.jpg,0.5\n', "line 3: POI 1 and image x/1_1.jpg stand in line 2 already"),
        ("1,a,x/1_1.jpg,0.5\n1,a,x/1_1.jpg,0.25\n", "line 2: POI 1 and image x/1_1.jpg stand in line 1 already"),
        (GOOD + GOOD[:37], "line 5: POI 1 and image x/1_1.jpg stand in line 1 already"),
        (GOOD.rsplit("2,b", 1)[0], "line 3: the rows of POI 2 end here, 1 of them where others have 2; x/2_1.jpg is"),
    ],
)
def test_malformed_results_name_file_and_line(tmp_path, script, capsys, text, message):
    path = tmp_path / "scores.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert script.main(["--scores-csv", str(path)]) == 1
    error = capsys.readouterr().err
    assert str(path) in error and message in error and error.count("\n") == 1
    with pytest.raises(InputError):
        read_recall_scores(path)


def test_no_such_result(tmp_path, script, capsys):
    assert script.main(["--scores-csv", str(tmp_path / "none.csv")]) == 1
    assert "no such file; align_recall_test_with_mmkg_model.py writes it" in capsys.readouterr().err
    assert script.main(["--scores-csv", str(tmp_path / "none.csv"), "--recall-k", "0"]) == 1

"""The comparison of results: MRR and nDCG against other libraries, merged names, paired differences, bad input."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torchmetrics.retrieval import RetrievalHitRate as HitRate
from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG

from models.recall_metrics import bootstrap_interval, hits, ndcg, own_images, reciprocal_ranks
from models.recall_results import read_recall_scores
from tests.test_recall_metrics import script, write

__all__ = ["script"]  # a fixture

NAMES = {"1": "西湖", "2": "普陀山", "3": "西湖", "4": "a,b", "5": "没有"}  # two POIs of one name; 5 has no image


def rows_of(seed: int, own_bonus: float = 0.5, levels: int = 0) -> list[tuple]:
    """All pairs of five POIs and 33 images; POIs of one name score alike, as they do from a model."""
    generator = np.random.default_rng(seed)
    images = [f"x/{owner}_{rank}.jpg" for owner in ("1", "2", "3", "4", "other") for rank in range(6)]
    images += [f"x/4_{rank}.jpg" for rank in range(6, 9)]
    by_name = {name: generator.random(len(images)) for name in dict.fromkeys(NAMES.values())}
    rows = []
    for poi, name in NAMES.items():
        for image, score in zip(images, by_name[name], strict=True):
            owner = image.split("/")[1].split("_")[0]
            score += own_bonus * (NAMES.get(owner) == name) * (owner != "3")
            rows.append((poi, name, image, round(score * levels) / levels if levels else score))
    return rows


def by_hand(rows, same) -> dict[str, dict[str, float]]:
    """Each POI's metrics from its sorted rows; `same(poi, owner)` says which images are its own."""
    values = {}
    for poi in NAMES:
        order = sorted((row for row in rows if row[0] == poi), key=lambda row: -row[3])
        own = [same(poi, Path(row[2]).name.split("_")[0]) for row in order]
        ideal = sum(1 / math.log2(2 + i) for i in range(min(sum(own), 10)))
        gain = sum(1 / math.log2(2 + i) for i in range(10) if own[i])
        values[poi] = {f"recall@{k}": float(any(own[:k])) for k in (1, 5, 10)}
        values[poi] |= {"MRR": 1 / (own.index(True) + 1) if any(own) else 0, "nDCG@10": gain / ideal if ideal else 0}
    return values


def table(output: str) -> dict[str, list[list[str]]]:
    """The printed table: what stands before a line's first number or dash -> its cells, in both parts."""
    cells = {}
    for line in output.splitlines():
        if match := re.match(r"(\S.*?|  \S.*?)((  +\S+( \[.*?\])?)+)$", line):
            cells.setdefault(match[1].strip(), []).append(re.findall(r"\S+ \[.*?\]|\S+", match[2]))
    return cells


@pytest.mark.parametrize("levels", [0, 4])
def test_every_mean_equals_its_definition(tmp_path, script, capsys, levels):
    rows = rows_of(0, levels=levels)
    path = write(tmp_path / "scores.csv", rows)
    assert script.main(["--scores-csv", str(path)]) == 0
    shown = table(output := capsys.readouterr().out)
    by_id = by_hand(rows, lambda poi, owner: poi == owner)
    by_name = by_hand(rows, lambda poi, owner: NAMES[poi] == NAMES.get(owner))
    del by_name["3"]  # POIs of one name are one
    for metric in ("recall@1", "recall@5", "recall@10", "MRR", "nDCG@10"):
        for part, values in enumerate((by_id, by_name)):
            mean = np.mean([value[metric] for value in values.values()])
            assert shown[metric][part][0].startswith(f"{mean:.3f} ["), metric
    assert by_id["3"]["MRR"] < by_name["1"]["MRR"] == 1  # merging matters here
    assert shown["POIs"] == [["5"]] and shown["with an own image"] == [["4"]] and shown["images"] == [["33"]]
    assert output.endswith(f"recall@5 = {np.mean([value['recall@5'] for value in by_id.values()]):.3f}\n")


def test_metrics_equal_those_of_torchmetrics_and_scikit_learn(tmp_path):
    rows = rows_of(1, own_bonus=0.1)
    scores = read_recall_scores(write(tmp_path / "scores.csv", rows))
    own = own_images(scores)
    relevant = torch.tensor([image.split("/")[1].split("_")[0] == poi for poi, _, image, _ in rows])
    given = torch.tensor(scores.score), relevant
    index = torch.tensor(scores.poi).long()
    for values, metric in [
        (reciprocal_ranks(own), RetrievalMRR(empty_target_action="neg")),
        (ndcg(own, 10), RetrievalNormalizedDCG(top_k=10, empty_target_action="neg")),
        (hits(own, 5), HitRate(top_k=5, empty_target_action="neg")),
    ]:
        assert values.mean() == pytest.approx(metric(*given, indexes=index).item(), abs=1e-6)
    matrix = [tensor.reshape(len(NAMES), -1).numpy() for tensor in given]
    for poi, (score, target) in enumerate(zip(*matrix, strict=True)):
        assert ndcg(own, 10)[poi] == pytest.approx(ndcg_score([target], [score], k=10))


def test_two_results_and_their_paired_difference(tmp_path, script, capsys):
    files = [rows_of(2, own_bonus=0), rows_of(2, own_bonus=0.6)[::-1]]  # the order of POIs does not matter
    paths = [str(write(tmp_path / f"{number}.csv", rows)) for number, rows in enumerate(files)]
    assert script.main(["--scores-csv", *paths, "--per-poi", str(tmp_path / "hits.csv")]) == 0
    shown = table(output := capsys.readouterr().out)
    values = [by_hand(rows, lambda poi, owner: poi == owner) for rows in files]
    difference = np.array([values[1][poi]["MRR"] - values[0][poi]["MRR"] for poi in NAMES])
    low, high = bootstrap_interval(difference)
    assert shown["MRR"][0][2] == f"{difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    assert shown["also in [1]"] == [["33", "33"]]
    assert output.count("recall@5 = ") == 2

    with open(tmp_path / "hits.csv", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 10
    for row in written:
        number = paths.index(row["scores_csv"])
        own = [pair for pair in files[number] if pair[0] == row["poi_id"] == Path(pair[2]).name.split("_")[0]]
        assert row["poi_name"] == NAMES[row["poi_id"]] and int(row["own_images"]) == len(own)
        if own:
            best = max(own, key=lambda pair: pair[3])
            assert 1 / int(row["first_hit"]) == pytest.approx(values[number][row["poi_id"]]["MRR"])
            assert (row["image_path"], float(row["score"])) == (best[2], pytest.approx(best[3]))
        else:
            assert row["first_hit"] == row["image_path"] == row["score"] == ""


def test_interval_of_a_difference_is_paired():
    """Two files that always agree differ by exactly 0, however uncertain each of them is."""
    hit = np.random.default_rng(0).integers(0, 2, 50)
    low, high = bootstrap_interval(np.column_stack([hit, hit - hit]))
    assert high[0] - low[0] > 0.1 and high[1] == low[1] == 0


def test_best_images_only(tmp_path, script, capsys):
    rows = rows_of(3)
    best = [row for poi in NAMES for row in sorted((r for r in rows if r[0] == poi), key=lambda r: -r[3])[:5]]
    whole, cut = (str(write(tmp_path / name, some)) for name, some in (("whole.csv", rows), ("cut.csv", best)))
    assert script.main(["--scores-csv", whole, cut]) == 0
    shown = table(output := capsys.readouterr().out)
    for metric in ("recall@1", "recall@5"):
        assert shown[metric][0][0] == shown[metric][0][1]
        assert shown[metric][0][2] == "+0.000 [+0.000, +0.000]"
    for metric in ("recall@10", "MRR", "nDCG@10"):  # an own image beyond the fifth place may be missing
        assert shown[metric][0][1:] == ["-", "-"]
    assert "cannot be told from the best images alone" in output
    assert script.main(["--scores-csv", cut, "--recall-k", "6"]) == 1
    assert "holds only the 5 best images of each POI; recall@6 needs more" in capsys.readouterr().err


def test_results_over_different_pois(tmp_path, script, capsys):
    rows = rows_of(4)
    one = str(write(tmp_path / "one.csv", [row for row in rows if row[0] != "2"]))
    two = str(write(tmp_path / "two.csv", [row for row in rows if row[0] not in "34"]))
    assert script.main(["--scores-csv", one, two, "--per-poi", str(tmp_path / "hits.csv")]) == 1
    error = capsys.readouterr().err
    assert f"only in {one}: 3, 4; only in {two}: 2\n" in error and error.count("\n") == 1
    assert not (tmp_path / "hits.csv").exists()


def test_no_folder_for_the_hits(tmp_path, script, capsys):
    path = str(write(tmp_path / "scores.csv", rows_of(5)))
    assert script.main(["--scores-csv", path, "--per-poi", str(tmp_path / "none" / "hits.csv")]) == 1
    assert "no such folder" in capsys.readouterr().err

"""train_ranking.py as a user runs it: what it learns and writes, that it goes on exactly, and what it refuses."""

import csv
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranking_world import make_pairs, write_pictures, write_poi_files, write_ranking_checkpoint, write_table
from test_checkpoint import released_tensors

import local_eval_test
import train_ranking
from models import ranking_data, ranking_trainer
from models.align import AlignModel
from models.augment import leave
from models.checkpoint import load_checkpoint, save_checkpoint
from models.images import read_image
from models.poi import PoiKnowledge
from models.preprocess import Preprocess
from models.ranking_data import PairBatches
from models.ranking_trainer import RankingTrainer, pair_loss

DIM = 16


class World:
    """Files for the script in a folder of their own, and a way to run it on them.

    People prefer pictures with a higher number, so that there is something to learn; validation has its own pairs.
    """

    def __init__(self, folder, align, vocabulary):
        self.folder = folder
        self.names = write_pictures(folder / "images", 8)
        self.pairs, self.val_pairs = self.by_number(make_pairs(self.names, repeats=4)), make_pairs(self.names[::-1])
        poi = write_poi_files(folder, DIM)
        self.files = dict(zip(("poi_image_vectors", "poi_name_vectors", "poi_image_counts"), poi, strict=True))
        self.files |= {"image_dir": folder / "images", "bert_path": vocabulary, "device": "cpu"}
        self.settings = self.files | {
            "dataset_csv": write_table(folder / "train.csv", self.pairs),
            "val_csv": write_table(folder / "val.csv", self.val_pairs),
            "align_path": align,
            "output_prefix": folder / "out",
            "batch_size": 8,  # of 36 pairs: four steps an epoch
            "epochs": 3,
            "num_workers": 0,
        }

    @staticmethod
    def by_number(pairs):
        wins = [pair.image_a > pair.image_b for pair in pairs]
        return [pair._replace(ctr_a=1 + win, ctr_b=2 - win) for pair, win in zip(pairs, wins, strict=True)]

    def run(self, *switches, script=train_ranking, **changes) -> int:
        settings = (self.settings if script is train_ranking else self.files) | changes
        flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        return script.main([*flags, *switches])

    def best(self, prefix="out") -> Path:
        [path] = (path for path in self.folder.glob(f"{prefix}_*.ckpt") if "last" not in path.name)
        return path

    def last(self, prefix="out"):
        return load_checkpoint(self.folder / f"{prefix}_last.ckpt")


@pytest.fixture
def world(tmp_path, tiny_align, vocabulary):
    return World(tmp_path, tiny_align, vocabulary)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_loss_is_the_cross_entropy_of_the_sigmoid_of_the_difference():
    a, b = (np.random.default_rng(seed).normal(0, 5, 32) for seed in (0, 1))
    labels = np.arange(32) % 3 == 0
    probability = 1 / (1 + np.exp(-(a - b)))
    expected = -np.mean(labels * np.log(probability) + (1 - labels) * np.log(1 - probability))
    assert pair_loss(torch.tensor(a), torch.tensor(b), torch.tensor(labels * 1.0)).item() == pytest.approx(expected)


def test_it_learns_what_is_clicked(world, capsys):
    assert world.run("--no-augment", epochs=40, val_csv=world.settings["dataset_csv"]) == 0
    name = world.best().name
    assert re.fullmatch(r"out_0\d\d_\d\.\d{4}\.ckpt", name) and float(name[8:14]) > 0.9
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    pattern = r"epoch \d+/40  loss (\S+)  accuracy (\S+)  \d+ pairs/s  validation (\S+?)(, the best so far)?"
    loss, accuracy, validation, best = zip(*(re.fullmatch(pattern, line).groups() for line in lines), strict=True)
    assert len(lines) == 40 and float(loss[-1]) < float(loss[0]) / 2 and float(accuracy[-1]) > 0.8
    assert max(validation) == name[8:14] == validation[int(name[4:7]) - 1], "the name has its epoch and accuracy"
    assert validation.index(max(validation)) == int(name[4:7]) - 1 and best[int(name[4:7]) - 1], "the first of equals"


@pytest.mark.parametrize("augment", ["--augment", "--no-augment"])
def test_the_evaluation_gives_the_accuracy_in_the_name(world, augment, capsys):
    assert world.run(augment) == 0
    best, scores = world.best(), world.folder / "scores.csv"
    assert f"after epoch {int(best.name[4:7])}: {best}" in capsys.readouterr().out.splitlines()[-1]
    evaluated = {"dataset_csv": world.settings["val_csv"], "model_path": best, "output_csv": scores}
    assert world.run(script=local_eval_test, **evaluated) == 0
    with open(scores, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [(float(row["score_a"]) > float(row["score_b"])) == (row["label"] == "1") for row in rows]
    assert len(rows) == 9 and best.name[8:14] == f"{np.mean(right):.4f}"
    assert 0 < np.mean(right) < 1, "else the labels could be anything"


@pytest.mark.parametrize("augment", ["--augment", "--no-augment"])
def test_the_recall_model_stays_as_it_was(world, augment, tiny_align):
    assert world.run(augment) == 0
    recall = load_checkpoint(tiny_align).state
    start = train_ranking.starting_ranker(SimpleNamespace(**world.settings, seed=0, init_model_path=None)).model
    for path in (world.best(), world.folder / "out_last.ckpt"):
        state = load_checkpoint(path).state
        inside = {key.removeprefix("align_model."): value for key, value in state.items() if key.startswith("align_")}
        assert same(inside, {key: value for key, value in recall.items() if key in inside})
        head = {key: value for key, value in start.state_dict().items() if not key.startswith("align_model.")}
        trained = [key for key, value in head.items() if not torch.equal(state[key], value)]
        assert head.keys() - trained == {"linear2.bias"}, "all of the head is trained but what a difference cancels"


def test_vectors_are_computed_once(world, monkeypatch):
    images, texts, pixels = [], [], []
    encode_images, encode_texts, encode = ranking_data.encode_images, ranking_data.encode_texts, RankingTrainer.encode
    monkeypatch.setattr(ranking_data, "encode_images", lambda *a, **k: images.append(a[1]) or encode_images(*a, **k))
    monkeypatch.setattr(ranking_data, "encode_texts", lambda *a, **k: texts.append(1) or encode_texts(*a, **k))
    monkeypatch.setattr(RankingTrainer, "encode", lambda *a: pixels.append(len(a[1])) or encode(*a))
    assert world.run("--no-augment") == 0
    assert [len(paths) for paths in images] == [8, 8] and len(texts) == 2 and not pixels
    images.clear(), texts.clear()
    assert world.run("--augment") == 0
    assert [len(paths) for paths in images] == [8] and len(texts) == 2 and pixels == [16] * 12


class Killed(BaseException):
    """Nothing catches this one, as nothing survives SIGKILL."""


@pytest.mark.parametrize(
    ("way", "augment", "workers"),
    [("killed", "--no-augment", 0), ("interrupted", "--no-augment", 0), ("interrupted", "--augment", 2)],
)
def test_a_run_that_was_stopped_goes_on_exactly(world, augment, workers, way, monkeypatch, capsys):
    assert world.run(augment, output_prefix=world.folder / "whole") == 0
    take_step = RankingTrainer.take_step

    def stop(trainer, *inputs):
        if trainer.step == 6:  # in the middle of the second epoch
            if way == "killed":
                raise Killed
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(trainer, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(RankingTrainer, "take_step", stop)
        if way == "killed":
            with pytest.raises(Killed):
                world.run(augment, num_workers=workers)
        else:
            assert world.run(augment, num_workers=workers) == 130
    assert world.last().extra["step"] == (4 if way == "killed" else 7)
    assert world.run(augment, "--resume", num_workers=workers) == 0
    assert world.best().name[3:] == world.best("whole").name[5:]
    assert same(load_checkpoint(world.best()).state, load_checkpoint(world.best("whole")).state)
    resumed, whole = world.last(), world.last("whole")
    assert same(resumed.state, whole.state) and resumed.extra["step"] == whole.extra["step"] == 12
    moments = zip(*(each.extra["optimizer"]["state"].values() for each in (resumed, whole)), strict=True)
    assert all(same(one, other) for one, other in moments)
    assert "going on after step" in capsys.readouterr().out


def test_a_finished_run_can_get_more_epochs(world):
    assert world.run("--no-augment", epochs=4, output_prefix=world.folder / "whole") == 0
    assert world.run("--no-augment", epochs=2) == 0
    assert world.run("--no-augment", "--resume", epochs=4) == 0
    assert same(world.last().state, world.last("whole").state)
    other = world.folder / "other"
    assert world.run("--no-augment", epochs=4, seed=1, output_prefix=other) == 0
    assert not same(world.last("other").state, world.last("whole").state), "the seed decides"


def test_a_resumed_run_keeps_its_recall_model(world, tiny_align, tiny_config):
    assert world.run("--augment", output_prefix=world.folder / "whole") == 0
    assert world.run("--augment", epochs=2) == 0
    save_checkpoint(world.folder / "retrained.pth", AlignModel(tiny_config))
    assert world.run("--augment", "--resume", align_path=world.folder / "retrained.pth") == 0
    assert same(world.last().state, world.last("whole").state)
    assert world.best().name[3:] == world.best("whole").name[5:]


def test_a_ranking_checkpoint_to_start_from_brings_its_recall_model(world, tiny_align):
    start = write_ranking_checkpoint(world.folder / "start.ckpt", tiny_align)
    assert world.run("--no-augment", init_model_path=start, align_path="not looked at", learning_rate=0.0) == 0
    trained, start = world.last().state, load_checkpoint(start).state
    assert same(trained | {key: start[key] for key in trained if ".bn." in key}, start), "at a rate of 0 nothing moves"


def test_batches_hold_each_pair_once_an_epoch_and_images_a_before_images_b(world, monkeypatch):
    monkeypatch.setattr(ranking_data, "augment_ranking", leave)
    preprocess = Preprocess(32)
    batches = PairBatches(world.pairs, 9, 0, (world.folder / "images", preprocess))
    epochs = [torch.cat([batches[step]["rows"] for step in steps]) for steps in (range(4), range(4, 8))]
    assert all(epoch.sort().values.tolist() == list(range(36)) for epoch in epochs)
    assert not torch.equal(*epochs), "each epoch has an order of its own"
    pairs = [world.pairs[row] for row in batches[5]["rows"]]
    names = [pair.image_a for pair in pairs] + [pair.image_b for pair in pairs]
    pixels = torch.stack([preprocess(read_image(world.folder / "images" / name)) for name in names])
    assert torch.equal(batches[5]["images"], pixels)


def test_augmentation_differs_from_step_to_step_but_not_from_run_to_run(world):
    one, other = (PairBatches(world.pairs[:1], 1, seed, (world.folder / "images", Preprocess(32))) for seed in (0, 1))
    torch.rand(5)  # whatever was drawn before
    assert torch.equal(one[3]["images"], one[3]["images"])
    assert not torch.equal(one[3]["images"], one[4]["images"])
    assert not torch.equal(one[3]["images"], other[3]["images"])


def test_a_full_size_model_is_written_with_the_released_keys_and_shapes(tmp_path, vocabulary):
    recall = tmp_path / "align_model.pth"
    torch.save({"state_dict": released_tensors("align_model")}, recall)
    settings = dict.fromkeys(ranking_trainer.RUN_KEYS) | {"learning_rate": 1e-3, "seed": 0}
    config = SimpleNamespace(
        **settings, align_path=recall, init_model_path=None, bert_path=str(vocabulary), device="cpu"
    )
    config.output_prefix = tmp_path / "out"
    trainer = RankingTrainer(config, train_ranking.starting_ranker(config), PoiKnowledge({}, {}, {}, 512), 16)
    trainer.save(trainer.last_path)
    written = {key: value.shape for key, value in load_checkpoint(trainer.last_path).state.items()}
    inside = released_tensors("align_model").items()
    wanted = {f"align_model.{key}": value.shape for key, value in inside if "relation" not in key}
    wanted |= {key: value.shape for key, value in released_tensors("ranking_model").items()}
    del wanted["align_model.text_model.embeddings.position_ids"]
    recall.unlink(), trainer.last_path.unlink()
    assert written == wanted


def test_pairs_without_readable_images_are_left_out_counted_and_listed(world, capsys):
    (world.folder / "images" / world.names[0]).write_bytes(b"no image")
    (world.folder / "images" / world.names[3]).unlink()
    write_table(world.folder / "train.csv", world.pairs, more=("too$record$few",))
    bad = {world.names[0], world.names[3]}
    good = sum(not bad & {pair.image_a, pair.image_b} for pair in world.pairs)
    assert world.run("--no-augment") == 0
    printed = capsys.readouterr().out
    assert f"train.csv: {good} of 37 pairs are used" in printed and world.last().extra["run"]["pairs"] == good
    assert f"train.csv that are missing or cannot be read: 2\n  {world.names[0]}: no image" in printed
    assert f"\n  {world.names[3]}: No such file" in printed and "line 37: 2 fields instead of 10" in printed


@pytest.mark.parametrize("what", ["loss", "gradient", "validation score"])
def test_numbers_that_explode_end_it_and_keep_the_last_good_checkpoint(world, what, monkeypatch, capsys):
    assert world.run("--no-augment", epochs=1) == 0
    before = {path: path.read_bytes() for path in world.folder.glob("*.ckpt")}
    if what == "validation score":
        scores = ranking_trainer.score_pairs
        monkeypatch.setattr(ranking_trainer, "score_pairs", lambda *a: [each * np.nan for each in scores(*a)])
        step = 8
    else:
        calls = iter(range(9))

        def explode(a, b, labels):
            if next(calls) < 2:
                return pair_loss(a, b, labels)
            return pair_loss(a, b, labels) * torch.nan if what == "loss" else (a - a.detach()).abs().sqrt().sum()

        monkeypatch.setattr(ranking_trainer, "pair_loss", explode)
        step = 7
    capsys.readouterr()
    assert world.run("--no-augment", "--resume") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(rf"step {step}\b.*: the {what} is no longer finite; lower", error)
    assert "out_last.ckpt" in error
    assert before == {path: path.read_bytes() for path in world.folder.glob("*.ckpt")}


def other_recall_model(world, tiny_config):
    save_checkpoint(world.folder / "other.pth", AlignModel(replace(tiny_config, text_hidden=24)))
    return {"align_path": world.folder / "other.pth"}


def no_images(world, tiny_config):
    (world.folder / "empty").mkdir()
    return {"image_dir": world.folder / "empty"}


def short_poi_vectors(world, tiny_config):
    (world.folder / "poi").mkdir()
    return {"poi_image_vectors": write_poi_files(world.folder / "poi", DIM - 1)[0]}


@pytest.mark.parametrize(
    ("changes", "switches", "message"),
    [
        ({"batch_size": 37}, [], r"train.csv: 36 pairs are fewer than a batch of 37; lower batch_size"),
        (no_images, [], r"empty: both images can be read of none of the pairs in .*train.csv"),
        ({"val_image_dir": "nowhere"}, [], r"nowhere: both images can be read of none of the pairs in .*val.csv"),
        ({"output_prefix": "nowhere/out"}, [], r"nowhere: no such folder"),
        ({"align_path": "nowhere.pth"}, [], r"nowhere.pth: no such file"),
        (short_poi_vectors, [], r"image_vectors.npy: 15 numbers for .* instead of 16"),
        ({"output_prefix": "fresh"}, ["--resume"], r"fresh_last.ckpt: no such file, so there is nothing to resume"),
        (other_recall_model, ["--resume"], r"out_last.ckpt: cannot be resumed .*: text_hidden was 32 and is 24"),
        ({"batch_size": 9}, ["--resume"], r"out_last.ckpt: cannot be resumed .*: batch_size was 8 and is 9"),
    ],
)
def test_bad_input_is_one_line(world, tiny_config, changes, switches, message, monkeypatch, capsys):
    monkeypatch.chdir(world.folder)
    if "--resume" in switches:
        assert world.run("--no-augment", epochs=1) == 0
        capsys.readouterr()
    changes = changes(world, tiny_config) if callable(changes) else changes
    before = {path: path.read_bytes() for path in world.folder.rglob("*.ckpt")}
    assert world.run("--no-augment", *switches, **changes) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.match(rf"error: .*{message}", error)
    assert before == {path: path.read_bytes() for path in world.folder.rglob("*.ckpt")}

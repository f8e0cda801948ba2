"""The recall model's losses are their definitions, and two processes train as one process with both batches would.

Run by torchrun, this file is one of the two processes.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photograph
from torch import nn

import train_align as script
from benchmarks.live_weights import enliven, pictures
from models import align_trainer
from models.align import AlignModel
from models.align_trainer import AlignTrainer
from models.align_training import AlignTraining
from models.checkpoint import save_checkpoint
from models.losses import contrastive_loss, initialise_relations, transe_loss
from models.pairs_data import AlignBatches

ROOT = Path(__file__).parent.parent


def rows(count: int, seed: int, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, size, generator=generator), dim=-1)


def contrast_by_hand(images, texts, scale):
    """The mean over both directions of -log(share of the own row among exp(scale · cosine)), and the accuracy."""
    cosines = images.astype(np.float64) @ texts.T.astype(np.float64)
    powers = np.exp(scale * cosines)
    own = np.diag(powers)
    of_images, of_texts = -np.log(own / powers.sum(1)), -np.log(own / powers.sum(0))
    return (of_images.mean() + of_texts.mean()) / 2, np.mean(cosines.argmax(1) == np.arange(len(own)))


def transe_by_hand(heads, relations, tails, wrong_tails):
    true, wrong = (np.abs(heads + relations - each).sum(1) for each in (tails, wrong_tails))
    return np.maximum(0, 1 + true - wrong).mean(), true.mean()


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_contrast(scale):
    images = rows(7, 1)
    texts = nn.functional.normalize(images + 1.2 * rows(7, 3), dim=-1)
    texts[[2, 5]] = texts[[5, 2]]  # two that do not find their text
    loss, accuracy = contrastive_loss(images, texts, torch.tensor(scale))
    assert (loss.item(), accuracy.item()) == pytest.approx(contrast_by_hand(images.numpy(), texts.numpy(), scale), 1e-5)
    assert contrast_by_hand(texts.numpy(), images.numpy(), scale)[1] < accuracy - 0.1  # the directions differ


def test_transe():
    heads, relations, tails, wrong_tails = (rows(9, seed) for seed in range(4))
    tails[:3] = heads[:3] + relations[:3]  # true triples that beat the margin: without loss
    loss, distance = transe_loss(heads, relations, tails, wrong_tails)
    expected = transe_by_hand(*(each.numpy() for each in (heads, relations, tails, wrong_tails)))
    assert (loss.item(), distance.item()) == pytest.approx(expected, 1e-5)


def test_relations_start_uniform_with_an_l1_norm_of_one():
    embedding = nn.Embedding(4, 100, padding_idx=3)
    torch.manual_seed(5)
    initialise_relations(embedding)
    torch.manual_seed(5)
    drawn = torch.empty(4, 100).uniform_(-6 / 10, 6 / 10).numpy()
    expected = drawn / np.abs(drawn).sum(1, keepdims=True)
    np.testing.assert_allclose(embedding.weight.detach().numpy(), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def live_start(tmp_path_factory, tiny_config):
    """A recall checkpoint with the knowledge graph's layers, whose weights react to their input."""
    model = AlignModel(tiny_config, knowledge_graph=True)
    enliven(model, lambda module: module.image_model(pictures(16, size=32)))
    torch.nn.init.constant_(model.logit_scale, 3.0)
    path = tmp_path_factory.mktemp("start") / "start.pth"
    save_checkpoint(path, model)
    return path


def few_triples() -> dict[str, torch.Tensor]:
    """A batch of 3 pairs, with 3 texts and 2 images more that come with 4 triples."""
    return {
        "images": pictures(5, size=32),
        "input_ids": torch.arange(5, 17).reshape(6, 2),
        "attention_mask": torch.ones(6, 2, dtype=torch.long),
        "relations": torch.tensor([0, 1, 2, 1]),
        "heads": torch.tensor([0, 1, 3, 3]),
        "tails": torch.tensor([4, 6 + 3, 5, 6 + 0]),
        "wrong_tails": torch.tensor([5, 6 + 4, 4, 6 + 3]),
    }


@pytest.mark.parametrize(("weight", "triples"), [(1.0, True), (0.0, True), (1.0, False)])
def test_what_is_trained_gets_a_gradient_and_nothing_else(weight, triples, tiny_config):
    """Several processes wait for the gradients of all parameters that are trained, and forever if there is none."""
    model = AlignModel(tiny_config, knowledge_graph=True)
    AlignTraining(model, weight, triples)(few_triples(), 3)[0].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    untrained = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert untrained == {"text_model"} | (set() if weight and triples else {"relations_emb", "linear_relation"})


def test_the_whole_loss_of_a_batch(tiny_config):
    model = AlignModel(tiny_config, knowledge_graph=True)
    enliven(model, lambda module: module.image_model(pictures(16, size=32)))
    torch.nn.init.constant_(model.logit_scale, 3.0)
    batch = few_triples()
    training = AlignTraining(model, 0.7, with_triples=True).eval()
    with torch.no_grad():
        loss, figures = training(batch, 3)
        images = model.encode_image(batch["images"]).numpy()
        texts = model.encode_text(batch["input_ids"], batch["attention_mask"]).numpy()
        relations = model.linear_relation(model.relations_emb.weight)[batch["relations"]].numpy()
    contrast, accuracy = contrast_by_hand(images[:3], texts[:3], 3.0)
    relations /= np.sqrt((relations**2).sum(1, keepdims=True))
    entities = np.concatenate((texts, images))
    tails = (entities[batch[name].numpy()] for name in ("tails", "wrong_tails"))
    transe, distance = transe_by_hand(texts[batch["heads"].numpy()], relations, *tails)
    expected = {"loss": contrast + 0.7 * transe, "contrast": contrast, "accuracy": accuracy}
    expected |= {"transe": transe, "distance": distance}
    assert {name: value.item() for name, value in figures.items()} == pytest.approx(expected, 1e-4)
    assert loss.item() == pytest.approx(expected["loss"], 1e-4)


# ---- two processes ----


@pytest.fixture(scope="module")
def few_pairs(tmp_path_factory):
    """A folder with a pairs.csv of 8 pairs, triples.csv, and their images."""
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(8):
        photograph(number).save(folder / f"{number}.png")
    texts = ["西湖", "海底世界", "古镇", "山", "日出", "夜景", "东门", "乐园"]
    (folder / "pairs.csv").write_text("".join(f"{text},{n}.png\n" for n, text in enumerate(texts)), encoding="utf-8")
    triples = [f"{text},has_image,{n}.png\n{text},has_cate,{'一二三四'[n % 4]}\n" for n, text in enumerate(texts)]
    (folder / "triples.csv").write_text("".join(triples), encoding="utf-8")
    return folder


def save_first_gradient(path) -> None:
    """From now on training saves the gradient of its first step and what it logs.

    Batch-norm and dropout are as in inference: on CPUs each process normalises its own images and draws its own
    dropout, so only without them two processes are one.  (On GPUs batch-norm sees the images of all processes.)
    Gradients are not clipped, because equal norms would hide a wrong factor.
    """
    take_step, align_trainer.MAX_GRADIENT = AlignTrainer.take_step, 1e9

    def take_step_and_save(self, batch, stop):
        self.module.eval()
        figures = take_step(self, batch, stop)
        if self.step == 0 and self.process.first:
            gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
            torch.save({"gradients": gradients, "figures": figures}, path)
        return figures

    AlignTrainer.take_step = take_step_and_save


def join(first: dict, second: dict, pairs: int) -> dict:
    """The batches of two processes as one: all pairs first, then what came with the triples."""

    def joined(name):  # row of the first or second batch -> row of the joined one
        length = len(first[name])
        first_rows = [*range(pairs), *range(2 * pairs, pairs + length)]
        second_rows = [*range(pairs, 2 * pairs), *range(pairs + length, length + len(second[name]))]
        values = torch.cat((first[name], second[name]))
        return values[torch.tensor(first_rows + second_rows).argsort()], first_rows, second_rows

    width = max(batch["input_ids"].shape[1] for batch in (first, second))
    for batch in (first, second):
        for name in ("input_ids", "attention_mask"):  # [PAD] is 0
            batch[name] = nn.functional.pad(batch[name], (0, width - batch[name].shape[1]))
    result = {"relations": torch.cat((first["relations"], second["relations"]))}
    result["images"], *image_rows = joined("images")
    result["input_ids"], *text_rows = joined("input_ids")
    result["attention_mask"] = joined("attention_mask")[0]
    total = len(result["input_ids"])
    places = [texts + [total + row for row in images] for texts, images in zip(text_rows, image_rows, strict=True)]
    for name in ("heads", "tails", "wrong_tails"):
        pointers = zip(places, (first[name], second[name]), strict=True)
        result[name] = torch.tensor([place[row] for place, rows in pointers for row in rows])
    return result


def test_the_gradient_of_two_processes_is_that_of_one_with_both_batches(
    tmp_path, few_pairs, live_start, vocabulary, monkeypatch
):
    def arguments(processes: int, last: str) -> list[str]:
        return [
            *("--pairs-csv", few_pairs / "pairs.csv", "--triples-csv", few_pairs / "triples.csv"),
            *("--image-dir", few_pairs, "--init-model-path", live_start, "--bert-path", vocabulary),
            *("--last-path", tmp_path / last, "--best-path", tmp_path / "best.pth", "--device", "cpu"),
            *("--batch-size", 6 // processes, "--triple-batch", 8 // processes, "--triple-weight", 0.7),
            *("--steps", 2, "--warmup-steps", 0, "--log-every", 1, "--num-workers", 0),
        ]

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    command += [tmp_path / "two.pt", *arguments(2, "two.pth")]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 2/2") == 1  # the first process alone prints

    def load_both(batches, steps, *_):
        parts = [
            AlignBatches(batches.pairs, batches.triples, few_pairs, batches, True, 3, 4, batches.seed, rank, 2)
            for rank in (0, 1)
        ]
        yield from (join(parts[0][step], parts[1][step], 3) for step in steps)

    monkeypatch.setattr(AlignTrainer, "take_step", AlignTrainer.take_step)  # to be put back after the test
    monkeypatch.setattr(align_trainer, "MAX_GRADIENT", None)
    monkeypatch.setattr(align_trainer, "batches_ahead", load_both)
    save_first_gradient(tmp_path / "one.pt")
    assert script.main(list(map(str, arguments(1, "one.pth")))) == 0

    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    assert two["figures"] == pytest.approx(one["figures"], 1e-4) and one["figures"]["transe"] > 0.1
    assert one["gradients"].keys() == two["gradients"].keys()
    assert {"logit_scale", "linear_relation.weight", "relations_emb.weight"} <= one["gradients"].keys()
    for name, gradient in one["gradients"].items():
        assert (two["gradients"][name] - gradient).abs().max() < 1e-5, name
    assert max(gradient.abs().max() for gradient in one["gradients"].values()) > 0.05


if __name__ == "__main__":
    save_first_gradient(sys.argv[1])
    sys.exit(script.main(sys.argv[2:]))

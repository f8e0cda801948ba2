"""Training of the recall model as a user runs it: exact resuming, interruption, what is kept and loads, bad input."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SPECIAL, WORDS, photograph

import train_align as script
from benchmarks.live_weights import enliven, pictures
from models import align_training
from models.align import AlignConfig, AlignModel
from models.align_trainer import AlignTrainer
from models.checkpoint import load_checkpoint, save_checkpoint
from models.encode import encode_images
from models.loading import KNOWN_KEYS, TwoTower, load_align
from models.pairs_data import AlignBatches, TextImage, Triple, distinct_batches, read_text_images, read_triples

ROOT = Path(__file__).parent.parent
TEXTS = ["西湖", "海底世界", "古镇", "山", "日出", "夜景"]
BERT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bit-identical needs the same number of threads in every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pairs.csv (12 pairs, 6 texts), triples.csv, images/, and a small BERT's vocabulary and config."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "images").mkdir()
    for number in range(12):
        photograph(number).save(folder / "images" / f"{number}.png")
    names = [(TEXTS[number % 6], f"{number}.png") for number in range(12)]
    (folder / "pairs.csv").write_text("text,image\n" + "".join(f"{t},{i}\n" for t, i in names), encoding="utf-8")
    triples = [f"{text},has_image,{image}\n" for text, image in names]
    triples += [f"{text},has_cate,{'一二三'[n % 3]}\n{text},has_title,{text}一\n" for n, text in enumerate(TEXTS)]
    (folder / "triples.csv").write_text("".join(triples), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n", encoding="utf-8")
    sizes = BERT | {"vocab_size": len(SPECIAL + WORDS)}
    (folder / "config.json").write_text(str(sizes).replace("'", '"'))
    return folder


def arguments(world: Path, folder: Path, **settings) -> list[str]:
    """The command line of a tiny run that writes into `folder`."""
    settings = {
        "pairs_csv": world / "pairs.csv",
        "triples_csv": world / "triples.csv",
        "image_dir": world / "images",
        "bert_path": world,
        "last_path": folder / "last.pth",
        "best_path": folder / "best.pth",
        **{"text_layers": 1, "image_size": 32, "image_width": 0.1, "image_depth": 0.1, "embed_dim": 16},
        **{"steps": 12, "batch_size": 4, "triple_batch": 4, "warmup_steps": 2, "learning_rate": 1e-3},
        **{"log_every": 1, "num_workers": 0, "device": "cpu"},
    } | settings
    flags = []
    for key, value in settings.items():
        if value is not False:
            flags += ["--" + key.replace("_", "-")] + ([] if value is True else [str(value)])
    return flags


def train(world: Path, folder: Path, **settings) -> int:
    return script.main(arguments(world, folder, **settings))


def assert_same(path: Path, other: Path) -> None:
    """Weights and batch-norm statistics of two checkpoints, bit by bit."""
    ours, theirs = load_checkpoint(path).state, load_checkpoint(other).state
    assert ours.keys() == theirs.keys()
    assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The `last` checkpoint of a run of 12 steps without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(world, folder) == 0
    return folder / "last.pth"


# ---- interruption and resuming ----


@pytest.fixture
def start():
    """A function that starts a run of its own, as a shell would; what is left of it is killed after the test."""
    runs = []

    def start(world, folder, **settings) -> subprocess.Popen:
        run = subprocess.Popen(
            [sys.executable, "-u", str(ROOT / "train_align.py"), *arguments(world, folder, **settings)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        runs.append(run)
        return run

    yield start
    for run in runs:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()


def wait_for(run: subprocess.Popen, step: int) -> None:
    for line in run.stdout:
        if line.startswith(f"step {step}/"):
            return
    pytest.fail(f"ended before step {step}: {run.stderr.read()}")


def test_killed_then_interrupted_then_resumed_is_as_if_nothing_happened(start, world, tmp_path, recall_table, photos):
    """Killed by SIGKILL, resumed with other processes that prepare batches, stopped by Ctrl-C, resumed to the end."""
    (tmp_path / "whole").mkdir()
    held_out = {"val_csv": recall_table, "val_image_dir": photos, "eval_every": 10, "recall_k": 2}
    settings = held_out | {"steps": 30, "save_every": 4}
    assert train(world, tmp_path / "whole", **settings) == 0

    run = start(world, tmp_path, **settings)
    wait_for(run, 6)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    killed_at = load_checkpoint(tmp_path / "last.pth").extra["step"]
    assert killed_at % 4 == 0 and 4 <= killed_at < 30

    run = start(world, tmp_path, **settings | {"save_every": 1000}, resume=True, num_workers=1)
    wait_for(run, killed_at + 3)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the processes that prepare batches too
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 130 and errors.strip().endswith("interrupted") and "Traceback" not in errors
    assert output.count("stopping after this step") == 1  # the others ignore it
    stopped_at = load_checkpoint(tmp_path / "last.pth").extra["step"]
    assert killed_at + 3 <= stopped_at < 30

    assert train(world, tmp_path, **settings, resume=True) == 0
    for name in ("last.pth", "best.pth"):
        assert_same(tmp_path / name, tmp_path / "whole" / name)
    ours, theirs = (load_checkpoint(folder / "last.pth").extra for folder in (tmp_path, tmp_path / "whole"))
    for key in ("step", "epoch", "best"):
        assert ours[key] == theirs[key]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth", "last.pth", "whole"]  # nothing half-written


def test_a_start_from_weights_is_resumed_without_naming_them_again(world, tmp_path, whole):
    """Its batch-norm goes on with the usual moving average, not with that of a random start."""
    (tmp_path / "straight").mkdir()
    settings = {"init_model_path": whole, "steps": 6}
    assert train(world, tmp_path / "straight", **settings) == 0
    stop_after(3, world, tmp_path, **settings)
    assert train(world, tmp_path, steps=6, resume=True) == 0
    assert_same(tmp_path / "last.pth", tmp_path / "straight" / "last.pth")


def stop_after(step: int, world, folder, **settings) -> None:
    """A run in this process that is interrupted in the given step."""
    take_step = AlignTrainer.take_step

    def take_step_and_stop(self, batch, stop):
        if self.step + 1 == step:
            stop = True
        return take_step(self, batch, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlignTrainer, "take_step", take_step_and_stop)
        assert train(world, folder, **settings) == 130
    assert load_checkpoint(folder / "last.pth").extra["step"] == step


def test_sigterm_stops_as_ctrl_c_does(world, tmp_path, whole):
    """As torchrun and job schedulers send it: to the processes that prepare batches too."""
    take_step = AlignTrainer.take_step

    def take_step_and_terminate(self, batch, stop):
        if self.step == 2:
            for pid in [child.pid for child in multiprocessing.active_children()] + [os.getpid()]:
                os.kill(pid, signal.SIGTERM)
        return take_step(self, batch, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlignTrainer, "take_step", take_step_and_terminate)
        assert train(world, tmp_path, num_workers=1) == 130
    assert load_checkpoint(tmp_path / "last.pth").extra["step"] == 4
    assert train(world, tmp_path, resume=True) == 0
    assert_same(tmp_path / "last.pth", whole)


def test_other_sizes_and_settings_are_not_resumed(world, tmp_path, whole, capsys):
    (tmp_path / "last.pth").write_bytes(whole.read_bytes())
    assert train(world, tmp_path, resume=True, embed_dim=24, image_size=40, learning_rate=0.5) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{tmp_path / 'last.pth'}: cannot be resumed with other settings" in error
    for difference in (
        "embed_dim was 16 and is 24",
        "image_size was 32 and is 40",
        "learning_rate was 0.001 and is 0.5",
    ):
        assert difference in error
    assert (tmp_path / "last.pth").read_bytes() == whole.read_bytes()


def test_nothing_to_resume(world, tmp_path, whole, capsys):
    assert train(world, tmp_path, resume=True) == 1
    assert "last.pth: no such file, so there is nothing to resume" in capsys.readouterr().err
    content = torch.load(whole)
    torch.save({key: content[key] for key in ("state_dict", "config")}, tmp_path / "last.pth")
    assert train(world, tmp_path, resume=True) == 1
    assert "no training state" in capsys.readouterr().err


# ---- numbers that explode ----


EXPLODING = {"loss": lambda x: x * float("nan"), "gradient": lambda x: x + (0 * x).sqrt()}


@pytest.mark.parametrize("what", EXPLODING)
def test_a_nan_stops_names_its_step_and_keeps_the_last_good_checkpoint(what, world, tmp_path, whole, capsys):
    contrastive_loss, calls = align_training.contrastive_loss, []

    def exploding(*args):
        calls.append(args)
        loss, accuracy = contrastive_loss(*args)
        return (EXPLODING[what](loss) if len(calls) == 5 else loss), accuracy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align_training, "contrastive_loss", exploding)
        assert train(world, tmp_path, save_every=2) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"step 5: the {what} is nan" in error and str(tmp_path / "last.pth") in error
    last = load_checkpoint(tmp_path / "last.pth")
    assert last.extra["step"] == 4 and all(value.isfinite().all() for value in last.state.values())
    assert "--init-model-path" in error  # --resume wants the same settings
    assert train(world, tmp_path, resume=True) == 0  # it really is good: from there the run ends as it should
    assert_same(tmp_path / "last.pth", whole)


# ---- what comes out ----


def test_it_learns_and_transe_brings_true_triples_closer(world, whole, tmp_path, capsys):
    model = AlignModel(AlignConfig(**load_checkpoint(whole).config), knowledge_graph=True)
    enliven(model, lambda module: module.image_model(pictures(16, size=32)))  # vectors in all directions from the start
    save_checkpoint(tmp_path / "start.pth", model)
    settings = {"init_model_path": tmp_path / "start.pth", "no_dropout": True, "no_augment": True}
    assert train(world, tmp_path, **settings, steps=60, learning_rate=3e-3, triple_batch=8) == 0
    lines = re.findall(r"contrast (\S+)  accuracy (\S+)  transe (\S+)  distance (\S+)  scale", capsys.readouterr().out)
    contrast, accuracy, transe, distance = np.array(lines, float).T
    first, final = slice(0, 5), slice(-10, None)
    assert len(lines) == 60
    assert distance[final].mean() < 0.9 * distance[first].mean()
    assert transe[final].mean() < 0.4 * transe[first].mean()
    assert contrast[final].mean() < 0.8 * contrast[first].mean()
    assert accuracy[final].mean() > accuracy[first].mean() + 0.3


def test_last_and_best_load_with_no_more_than_their_path(world, tmp_path, recall_table, photos, capsys):
    recalls = iter([0.5, 0.75, 0.25])
    held_out = {"val_csv": recall_table, "val_image_dir": photos, "recall_k": 2, "eval_every": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align_training.HeldOut, "recall", lambda *args: next(recalls))
        assert train(world, tmp_path, **held_out, save_every=100) == 0
    assert "held-out recall@2 = 0.750" in capsys.readouterr().out
    steps = {}
    for name in ("last.pth", "best.pth"):
        towers, checkpoint = load_align(tmp_path / name, str(world)), load_checkpoint(tmp_path / name)
        steps[name] = checkpoint.extra["step"], checkpoint.extra["epoch"], checkpoint.extra["best"]
        assert towers.model.config.embed_dim == 16 and towers.preprocess.size == 32
        loaded = towers.model.state_dict()
        assert all(torch.equal(loaded[key], checkpoint.state[key]) for key in loaded)
        assert {key for key in checkpoint.state if key not in loaded} == {
            key for key in checkpoint.state if key.startswith(KNOWN_KEYS)
        }
        assert len(encode_images(towers, sorted(photos.iterdir())).paths) == 9
    assert steps == {"last.pth": (12, 4, 0.75), "best.pth": (8, 2, 0.75)}  # three batches are an epoch


def test_held_out_recall_is_that_of_the_best_checkpoint(world, tmp_path, recall_table, photos, capsys):
    held_out = {"val_csv": recall_table, "val_image_dir": photos, "recall_k": 2}
    assert train(world, tmp_path, **held_out) == 0
    printed = float(re.search(r"held-out recall@2 = (\S+)", capsys.readouterr().out)[1])
    towers = load_align(tmp_path / "best.pth", str(world), "cpu")
    measured = align_training.HeldOut.load(recall_table, photos).recall(towers, 2)
    assert (
        printed == pytest.approx(measured, abs=5e-4)
        and load_checkpoint(tmp_path / "best.pth").extra["best"] == measured
    )


def test_a_full_size_run_writes_the_released_keys_and_shapes(world, tmp_path, capsys):
    """At 64 pixels, which changes no shape."""
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL + [f"t{n}" for n in range(21128 - 5)]) + "\n")
    small = {"steps": 2, "batch_size": 2, "triple_batch": 2, "image_size": 64, "bert_path": tmp_path}
    defaults = {key: script.CONFIG[key] for key in ("text_layers", "image_width", "image_depth", "embed_dim")}
    assert train(world, tmp_path, **small, **defaults) == 0
    released = {}
    for line in (ROOT / "tests/release/align_model.tensors.txt").read_text().splitlines():
        key, shape, dtype = line.split()
        released[key] = ("" if shape == "scalar" else shape, dtype)
    del released["text_model.embeddings.position_ids"]
    saved = load_checkpoint(tmp_path / "last.pth")
    written = {k: ("x".join(map(str, v.shape)), str(v.dtype).removeprefix("torch.")) for k, v in saved.state.items()}
    assert written == released
    assert AlignConfig(**saved.config | {"image_size": 224}) == AlignConfig() and saved.extra["step"] == 2
    (tmp_path / "last.pth").unlink()  # half a gigabyte


# ---- batches ----


@pytest.fixture(scope="module")
def batches(world):
    def make(rank=0, count=1, seed=0, augment=True):
        pairs, triples = read_text_images(world / "pairs.csv"), read_triples(world / "triples.csv")
        towers = TwoTower(None, lambda image: torch.from_numpy(np.array(image.resize((8, 8)))), tokens_of)
        return AlignBatches(pairs, triples, world / "images", towers, augment, 3, 5, seed, rank, count)

    return make


def tokens_of(texts):
    """Each text's characters, so that a batch shows which texts it holds."""
    ids = [[ord(c) for c in text.ljust(6)] for text in texts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(texts), 6, dtype=torch.long)}


def texts_in(batch) -> list[str]:
    return ["".join(map(chr, row)).strip() for row in batch["input_ids"].tolist()]


def test_an_epoch_takes_every_pair_once_over_all_processes_and_no_text_twice_a_batch(batches):
    parts = [batches(rank, 2) for rank in (0, 1)]
    seen = []
    for step in range(2):  # two batches of 2 · 3 pairs are an epoch
        texts = [text for part in parts for text in texts_in(part[step])[:3]]
        assert sorted(texts) == sorted(TEXTS)
        seen += parts[0].epoch(0)[step]
    assert sorted(seen) == list(range(12))
    assert parts[0].epoch(1) != parts[0].epoch(0)


def test_a_batch_depends_on_seed_and_step_alone(batches):
    one, other = batches(), batches()
    [one[step] for step in range(7)]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = other[7]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(98)
    assert all(torch.equal(again[name], values) for name, values in one[7].items())
    assert not torch.equal(batches(seed=1)[7]["images"][0], again["images"][0])
    assert not torch.equal(batches(augment=False)[7]["images"][0], again["images"][0])


def test_triples_point_at_their_texts_and_images_and_wrong_tails_are_wrong(batches, world):
    data = batches(augment=False)
    true = {tuple(triple) for triple in read_triples(world / "triples.csv")}
    picture = {data.pixels(f"{n}.png").numpy().tobytes(): f"{n}.png" for n in range(12)}
    drawn = set()
    for step in range(40):
        batch = data[step]
        entities = texts_in(batch) + [picture[image.numpy().tobytes()] for image in batch["images"]]
        texts, images = entities[:3], entities[len(batch["input_ids"]) :][:3]
        assert {TextImage(*pair) for pair in zip(texts, images, strict=True)} <= set(data.pairs)
        for head, relation, tail, wrong in zip(
            *(batch[name].tolist() for name in ("heads", "relations", "tails", "wrong_tails")), strict=True
        ):
            name = ("has_cate", "has_image", "has_title")[relation]
            triple, mistake = ((entities[head], name, entities[end]) for end in (tail, wrong))
            assert triple in true and mistake not in true
            assert any(mistake[1:] == other[1:] for other in true)  # a tail of the same relation
            drawn.add(name)
    assert drawn == {"has_cate", "has_image", "has_title"}


def test_texts_wait_for_the_next_batch_rather_than_stand_twice_in_one():
    texts = list("aaabbbccc")
    found = [[texts[index] for index in batch] for batch in distinct_batches(texts, range(9), 3)]
    assert found == [["a", "b", "c"]] * 3
    repeated = list(distinct_batches(list("aaaab"), range(5), 2))  # not enough texts: then twice
    assert len(repeated) == 2 and len({index for batch in repeated for index in batch}) == 4


# ---- bad input ----


def test_pairs_without_a_readable_image_are_left_out_counted_and_listed(world, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for path in (world / "images").iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "3.png").unlink()
    (tmp_path / "images" / "4.png").write_bytes(b"no image")
    assert train(world, tmp_path, image_dir=tmp_path / "images", steps=1) == 0
    output = capsys.readouterr().out
    assert "images that are missing or cannot be read: 2\n" in output
    assert re.search(r"\n  3\.png: No such file", output) and re.search(r"\n  4\.png: no image", output)
    assert "left out with their images: 2 pairs, 2 triples" in output
    assert "training on 10 pairs with 6 texts, and 22 triples" in output
    (tmp_path / "last.pth").unlink()

    # unchecked, the first one that is needed ends the run, in the processes that prepare batches too
    for workers in (0, 1):
        unchecked = {"image_dir": tmp_path / "images", "no_check_images": True, "num_workers": workers}
        assert train(world, tmp_path, **unchecked) == 1
        error = capsys.readouterr().err
        assert re.fullmatch(rf"error: {tmp_path}/images/[34]\.png: .*\n", error)
        assert not multiprocessing.active_children()  # Python would wait for them at its end, and they for Python


def test_held_out_images_that_cannot_be_read_are_listed_and_none_left_is_an_error(
    world, tmp_path, recall_table, photos, capsys
):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "10060_1.jpg").write_bytes((photos / "10060_1.jpg").read_bytes())
    (tmp_path / "photos" / "10060_2.png").write_bytes(b"no image")
    held_out = {"val_csv": recall_table, "val_image_dir": tmp_path / "photos"}
    assert train(world, tmp_path, **held_out, steps=1) == 0
    output = capsys.readouterr().out
    assert "held-out images that cannot be read: 1\n  10060_2.png: no image" in output
    assert "held-out recall@5 = 0.250" in output  # that POI is found among the only image, the three others are not
    (tmp_path / "photos" / "10060_1.jpg").write_bytes(b"no image")
    assert train(world, tmp_path, **held_out, steps=1) == 1
    error = capsys.readouterr().err
    assert "photos: none of its images is one of a POI in" in error and error.count("\n") == 1


def spoiled(world, folder, name, edit) -> Path:
    path = folder / name
    path.write_bytes(edit((world / name).read_bytes()))
    return path


BAD_TABLES = {
    r"pairs\.csv, line 3: 3 fields instead of 2": ("pairs.csv", lambda t: t.replace(b",1.png", b",1.png,x")),
    r"pairs\.csv, line 4: image is empty": ("pairs.csv", lambda t: t.replace(b"2.png", b" ", 1)),
    r"pairs\.csv, line 2: not UTF-8": ("pairs.csv", lambda t: t.replace("西湖".encode(), "西湖".encode("gbk"))),
    r"pairs\.csv, line 14: unexpected end": ("pairs.csv", lambda t: t + b'"open,1.png\n'),
    r"pairs\.csv: holds no row": ("pairs.csv", lambda t: b"text,image\n"),
    r"triples\.csv, line 2: unknown relation 'is_near'": (
        "triples.csv",
        lambda t: t.replace("海底世界,has_image".encode(), "海底世界,is_near".encode()),
    ),
    r"triples\.csv, line 1: 2 fields instead of 3": ("triples.csv", lambda t: t.replace(b",has_image,", b",", 1)),
    r"triples\.csv: '西湖' has every tail of has_image": (
        "triples.csv",
        lambda t: "西湖,has_image,1.png\n古镇,has_image,1.png\n".encode(),
    ),
}


@pytest.mark.parametrize("message", BAD_TABLES)
def test_a_malformed_table_is_one_line_with_its_place(message, world, tmp_path, capsys):
    name, edit = BAD_TABLES[message]
    tables = {name.replace(".", "_"): spoiled(world, tmp_path, name, edit)}
    assert train(world, tmp_path, **tables) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (tmp_path / "last.pth").exists()


BAD_SETTINGS = {
    r"12 pairs are fewer than a batch of 13": {"batch_size": 13},
    r"none of its images can be read in .*elsewhere": {"image_dir": "elsewhere"},
    r"no/such/folder: no such folder for the output file": {"last_path": "no/such/folder/last.pth"},
    r"start\.pth: no such file": {"init_model_path": "start.pth"},
    r"device tpu.*not available": {"device": "tpu"},
}


@pytest.mark.parametrize("message", BAD_SETTINGS)
def test_a_wrong_setting_is_one_line(message, world, tmp_path, capsys):
    assert train(world, tmp_path, **BAD_SETTINGS[message]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_triples_of_known_relations_alone(tmp_path):
    (tmp_path / "triples.csv").write_text("head,relation,tail\na,has_title,b\na,has_image,c.png\n")
    assert read_triples(tmp_path / "triples.csv") == [Triple("a", "has_title", "b"), Triple("a", "has_image", "c.png")]

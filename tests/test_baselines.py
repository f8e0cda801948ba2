"""Taiyi-CLIP and Chinese-CLIP: tiny random models in the hub's layout give transformers' own vectors, safely."""

import csv
import json
import os
import pickle

import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import POIS, SPECIAL, WORDS, photograph
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
)

import align_recall_test_with_mmkg_model as script
from benchmarks.live_weights import enliven
from models.baselines import load_chinese_clip, load_taiyi
from models.encode import encode_images, encode_texts
from models.errors import InputError

TEXTS = ["海底世界", "Hello Kitty乐园", "西湖", "西湖日出" * 60, ""]
BERT = {
    "vocab_size": len(SPECIAL + WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
VISION = BERT | {"image_size": 32, "patch_size": 8}
SIZES = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
# The processor's file as CLIP's and Chinese-CLIP's folders on the hub have it, from before transformers 4.26.
OLD_PROCESSOR = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, "resample": 3}


def live(model):
    enliven(model, lambda module: None)
    return model


@pytest.fixture(scope="module")
def taiyi(tmp_path_factory, vocabulary):
    """A text tower as the hub has it: config, pytorch_model.bin with its stale positions, vocab.txt and no more."""
    folder = tmp_path_factory.mktemp("taiyi")
    model = live(BertForSequenceClassification(BertConfig(**BERT, num_labels=12)))
    model.config.save_pretrained(folder)
    torch.save(
        model.state_dict() | {"bert.embeddings.position_ids": torch.arange(64)[None]}, folder / "pytorch_model.bin"
    )
    (folder / "vocab.txt").write_bytes((vocabulary / "vocab.txt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    live(CLIPModel(CLIPConfig(vision_config=VISION, text_config=BERT, projection_dim=12))).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(OLD_PROCESSOR))
    return folder


@pytest.fixture(scope="module")
def chinese_clip(tmp_path_factory, vocabulary):
    folder = tmp_path_factory.mktemp("chinese-clip")
    config = ChineseCLIPConfig(vision_config=VISION, text_config=BERT, projection_dim=12)
    live(ChineseCLIPModel(config)).half().save_pretrained(folder)  # published in half precision, to be used in full
    ChineseCLIPImageProcessor(**SIZES).save_pretrained(folder)
    (folder / "vocab.txt").write_bytes((vocabulary / "vocab.txt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate([(64, 48), (30, 90), (32, 32), (5, 7), (301, 200)]):
        photograph(number, *size).save(folder / f"{number}_1.png")
    return sorted(folder.iterdir())


def vectors(towers, files):
    texts = encode_texts(towers, TEXTS)
    return encode_images(towers, files).vectors, torch.stack([texts[text] for text in TEXTS])


def own_image_vectors(model, processor, files):
    """transformers' processor and model, one picture after another."""
    from PIL import Image

    pixels = torch.cat([processor(Image.open(file), return_tensors="pt")["pixel_values"] for file in files])
    expected = F.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    assert expected.std(dim=0).min() > 0.02, "the weights must react to images"
    return expected


def torchvision_processor(kind):
    """Later versions of transformers 5 have it under the plain name, which in the first ones is Pillow's."""
    name = f"{kind}ImageProcessor"
    return (getattr(transformers, f"{name}Fast", None) or getattr(transformers, name))(**SIZES)


def tokens(folder, text):
    return BertTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=64)


@torch.no_grad()
def test_taiyi_equals_transformers(taiyi, clip, files):
    images, texts = vectors(load_taiyi(str(taiyi), clip_path=str(clip)), files)
    processor, model = torchvision_processor("CLIP"), CLIPModel.from_pretrained(clip)
    torch.testing.assert_close(images, own_image_vectors(model, processor, files), atol=1e-5, rtol=0)
    bert = BertForSequenceClassification.from_pretrained(taiyi).eval()
    expected = F.normalize(torch.cat([bert(**tokens(taiyi, text)).logits for text in TEXTS]), dim=-1)
    assert expected.std(dim=0).min() > 0.02
    torch.testing.assert_close(texts, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_chinese_clip_equals_transformers(chinese_clip, files):
    images, texts = vectors(load_chinese_clip(str(chinese_clip)), files)
    model = ChineseCLIPModel.from_pretrained(chinese_clip, dtype=torch.float32).eval()
    expected = own_image_vectors(model, torchvision_processor("ChineseCLIP"), files)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)
    expected = torch.cat([model.get_text_features(**tokens(chinese_clip, text)).pooler_output for text in TEXTS])
    assert expected.std(dim=0).min() > 0.02
    torch.testing.assert_close(texts, F.normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_another_weight_file_takes_the_place_of_the_folders(taiyi, clip, tmp_path):
    torch.manual_seed(1)
    tuned = live(BertForSequenceClassification(BertConfig(**BERT, num_labels=12)))
    enliven(tuned, lambda module: None, seed=1)
    path = tmp_path / "theirs.bin"
    torch.save(tuned.state_dict() | {"bert.embeddings.position_ids": torch.arange(64)[None]}, path)
    replaced = load_taiyi(str(taiyi), path, str(clip))
    assert all(
        torch.equal(value, tuned.state_dict()[key]) for key, value in replaced.model.texts.bert.state_dict().items()
    )
    ours = encode_texts(replaced, ["西湖"])["西湖"]
    assert (ours - encode_texts(load_taiyi(str(taiyi), None, str(clip)), ["西湖"])["西湖"]).abs().max() > 0.01


def full_size_state() -> dict[str, torch.Tensor]:
    """The keys and shapes of a 102M RoBERTa with 512 logits, as transformers 4 saved them."""
    shapes = {"embeddings.word_embeddings.weight": (21128, 768), "embeddings.position_embeddings.weight": (512, 768)}
    shapes |= {"embeddings.token_type_embeddings.weight": (2, 768), "pooler.dense.weight": (768, 768)}
    shapes |= {"pooler.dense.bias": (768,), "embeddings.LayerNorm.weight": (768,), "embeddings.LayerNorm.bias": (768,)}
    square = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    linears = dict.fromkeys(square, (768, 768)) | {"intermediate.dense": (3072, 768), "output.dense": (768, 3072)}
    for layer in range(12):
        for name, shape in linears.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shapes[f"encoder.layer.{layer}.{name}.bias"] = (768,)
    shapes = {f"bert.{key}": shape for key, shape in shapes.items()}
    shapes |= {"classifier.weight": (512, 768), "classifier.bias": (512,)}
    state = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}  # one number each: the file is small
    return {"bert.embeddings.position_ids": torch.arange(512)[None]} | state


def test_the_authors_file_fits_in_full_size(tmp_path, vocabulary):
    folder = tmp_path / "taiyi"
    BertConfig(num_labels=512, vocab_size=21128).save_pretrained(folder)
    (folder / "vocab.txt").write_bytes((vocabulary / "vocab.txt").read_bytes())
    CLIPModel(CLIPConfig(vision_config=VISION, text_config=BERT, projection_dim=512)).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(**SIZES).save_pretrained(tmp_path / "clip")
    state = full_size_state()
    state["classifier.bias"] = torch.arange(512.0)
    torch.save(state, tmp_path / "pytorch_model.bin")
    towers = load_taiyi(str(folder), tmp_path / "pytorch_model.bin", str(tmp_path / "clip"))
    assert sum(weight.numel() for weight in towers.model.texts.parameters()) == 102_661_376
    vector = encode_texts(towers, ["西湖"])["西湖"]  # all weights but the last bias are zero
    torch.testing.assert_close(vector, F.normalize(torch.arange(512.0), dim=0))

    del state["bert.pooler.dense.bias"]
    torch.save(state | {"classifier.weight": torch.zeros(2, 768)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"1 missing: bert.pooler.dense.bias; 1 of another shape: classifier.weight"):
        load_taiyi(str(folder), tmp_path / "pytorch_model.bin", str(tmp_path / "clip"))


class RunsCode:
    """A pickle of this makes a folder where it is read without care."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_never_run_code(legacy, taiyi, clip, tmp_path):
    folder, proof = tmp_path / "taiyi", tmp_path / "proof"
    folder.mkdir()
    for name in ("config.json", "vocab.txt"):
        (folder / name).write_bytes((taiyi / name).read_bytes())
    evil, path = {"classifier.bias": torch.zeros(12), "x": RunsCode(proof)}, folder / "pytorch_model.bin"
    torch.save(evil, path, _use_new_zipfile_serialization=not legacy)
    for arguments in ([str(folder), None], [str(taiyi), path]):
        with pytest.raises(InputError, match=r"not plain weights: .*it holds code, which is never run"):
            load_taiyi(*arguments, str(clip))
    assert not proof.exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file does run code where it may"


def recall(tmp_path, photos, recall_table, *flags):
    output = tmp_path / "scores.csv"
    arguments = ["--image-dir", str(photos), "--dataset-csv", str(recall_table), "--output-csv", str(output)]
    return script.main([*arguments, *map(str, flags)]), output


def test_the_recall_script_serves_both(taiyi, clip, chinese_clip, photos, recall_table, tmp_path):
    for flags in (
        ["taiyi", "--model-path", taiyi, "--clip-path", clip],
        ["chinese_clip", "--model-path", chinese_clip],
    ):
        code, output = recall(tmp_path, photos, recall_table, "--model", *flags)
        rows = list(csv.reader(output.open(encoding="utf-8")))
        assert code == 0 and len(rows) == len(POIS) * len(list(photos.iterdir()))
        assert len({row[3] for row in rows}) > 9 and all(-1 <= float(row[3]) <= 1 for row in rows)


def test_a_baseline_without_a_path_is_the_published_one(capsys, photos, recall_table, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("models.baselines.from_hub", lambda kind, path, **_: asked.append(path) or 1 / 0)
    for model in ("taiyi", "chinese_clip"):
        with pytest.raises(ZeroDivisionError):
            recall(tmp_path, photos, recall_table, "--model", model)
    assert asked == ["IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese", "OFA-Sys/chinese-clip-vit-base-patch16"]
    assert "model_path = OFA-Sys/chinese-clip-vit-base-patch16\n" in capsys.readouterr().out


def test_bad_folders_are_one_line(capsys, taiyi, clip, chinese_clip, photos, recall_table, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    wordless = tmp_path / "wordless"
    wordless.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (wordless / name).write_bytes((taiyi / name).read_bytes())
    for model, folder, message in [
        ("taiyi", empty, "no BertForSequenceClassification in this folder"),
        ("taiyi", chinese_clip, "no BertForSequenceClassification"),
        ("taiyi", wordless, "tokens in its vocabulary"),
        ("chinese_clip", taiyi, "no ChineseCLIPModel"),
        ("chinese_clip", tmp_path / "align_model.pth", "no ChineseCLIPModel"),
    ]:
        flags = ["--model", model, "--model-path", folder, "--clip-path", clip]
        code, output = recall(tmp_path, photos, recall_table, *flags)
        errors = capsys.readouterr().err
        assert code == 1 and str(folder) in errors and message in errors, errors
        assert errors.count("\n") == 1 and not output.exists()


def test_a_strip_is_left_out_before_it_fills_the_memory(chinese_clip, tmp_path):
    photograph(1, 1000, 2).save(tmp_path / "1_1.png")
    photograph(2, 100, 2).save(tmp_path / "1_2.png")
    images = encode_images(load_chinese_clip(str(chinese_clip)), sorted(tmp_path.iterdir()))
    assert [path.name for path in images.paths] == ["1_2.png"]
    assert images.failed == [(tmp_path / "1_1.png", "1000×2 pixels, too narrow")]

"""Training starts from what other libraries saved, with their own models' features; what does not fit is said."""

import json
import os

import pytest
import torch
from efficientnet_pytorch import EfficientNet
from safetensors.torch import save_file
from torchvision.models import efficientnet_b3
from transformers import BertConfig, BertModel

from benchmarks.live_weights import enliven, pictures
from models.align import AlignConfig, AlignModel
from models.checkpoint import save_checkpoint
from models.efficientnet import TrailingPadConv2d
from models.errors import InputError
from models.starting_weights import bert_sizes, starting_model

TEXT = {"vocab_size": 30, "text_dim": 16, "text_layers": 2, "text_heads": 2, "text_hidden": 32, "text_positions": 64}
SMALL = AlignConfig(image_size=32, image_width=0.1, image_depth=0.1, embed_dim=16, relation_dim=8, **TEXT)
B3 = AlignConfig(image_size=64, embed_dim=16, relation_dim=8, **TEXT)  # a full-size image tower


class Malicious:
    """A pickle that makes a folder when it is loaded carelessly."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


# ---- the text tower ----


def live_bert(layers: int) -> BertModel:
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    bert = BertModel(config)
    enliven(bert, lambda module: None)
    return bert


def save_safetensors(bert, folder):
    bert.save_pretrained(folder)
    assert (folder / "model.safetensors").is_file()


def save_bin(bert, folder):
    """As bert-base-chinese is on the hub: a masked language model with its head, and an old transformers' buffer."""
    state = {f"bert.{key}": value for key, value in bert.state_dict().items()}
    state["bert.embeddings.position_ids"] = torch.arange(64)[None]
    state["cls.predictions.bias"] = torch.zeros(30)
    bert.config.save_pretrained(folder)
    torch.save(state, folder / "pytorch_model.bin")


@pytest.mark.parametrize("save", [save_safetensors, save_bin])
def test_the_first_layers_of_a_bert(save, tmp_path):
    bert = live_bert(layers=4)
    save(bert, tmp_path)
    model = starting_model(SMALL, bert_weights=tmp_path).eval()
    tokens = torch.randint(30, (3, 7))
    with torch.no_grad():
        expected = bert(tokens, output_hidden_states=True).hidden_states[2]  # after two layers
        torch.testing.assert_close(model.text_model(tokens, torch.ones_like(tokens)), expected[:, 0])
    assert len(model.text_model.encoder["layer"]) == 2


def test_the_sizes_come_from_its_config(tmp_path):
    assert bert_sizes(tmp_path) == {}  # a bare vocabulary: the published sizes
    live_bert(1).config.save_pretrained(tmp_path)
    assert bert_sizes(tmp_path) == {key: value for key, value in TEXT.items() if key != "text_layers"}


BAD_BERT = {
    "no BERT of these sizes": lambda folder: (folder / "model.safetensors").unlink(),
    "no BERT of these sizes can": lambda folder: (folder / "model.safetensors").write_bytes(b"damaged"),
    "tensors are missing": lambda folder: save_file({"other": torch.ones(2)}, folder / "model.safetensors"),
    "is missing|are missing: encoder.layer.1": lambda folder: live_bert(1).save_pretrained(folder),
}


@pytest.mark.parametrize("message", BAD_BERT)
def test_what_is_wrong_with_a_bert_is_said(message, tmp_path):
    live_bert(2).save_pretrained(tmp_path)
    BAD_BERT[message](tmp_path)
    with pytest.raises(InputError, match=message) as error:
        starting_model(SMALL, bert_weights=tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_bert_of_another_width_is_refused(tmp_path):
    live_bert(2).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no BERT of these sizes"):
        starting_model(AlignConfig(**vars(SMALL) | {"text_hidden": 48}), bert_weights=tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": 16}', '{"vocab_size": "many"}'])
def test_a_config_that_is_none_is_said(tmp_path, text):
    config = json.loads(text) if text.startswith('{"v') else None
    if config:
        text = json.dumps(live_bert(1).config.to_dict() | config)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: no BERT config"):
        bert_sizes(tmp_path)


# ---- the image tower ----


@pytest.fixture(scope="module")
def imagenet():
    """efficientnet_pytorch's B3 with 1000 classes and live weights."""
    model = EfficientNet.from_name("efficientnet-b3")
    enliven(model, lambda module: module(pictures(8, size=64)))
    return model


@torch.no_grad()
def test_an_imagenet_efficientnet_of_efficientnet_pytorch(imagenet, tmp_path):
    torch.save(imagenet.state_dict(), tmp_path / "b3.pth")
    model = starting_model(B3, image_weights=tmp_path / "b3.pth").eval().double()  # live weights magnify rounding
    images = pictures(2, size=64, seed=1).double()
    expected = imagenet.double().extract_features(images)
    torch.testing.assert_close(model.image_model.features(images), expected)
    assert (expected[0] - expected[1]).abs().max() > 0.1, "the weights must react to images"
    assert model.image_model(images).shape == (2, 16)  # a head of our own


@torch.no_grad()
def test_an_imagenet_efficientnet_of_torchvision(imagenet, tmp_path):
    """Its features differ by the padding of strided convolutions and by batch-norm's eps, and by nothing else."""
    theirs = efficientnet_b3()
    state = dict(zip(theirs.state_dict(), imagenet.state_dict().values(), strict=True))
    theirs.load_state_dict(state)
    torch.save(theirs.state_dict(), tmp_path / "b3.pth")
    model = starting_model(B3, image_weights=tmp_path / "b3.pth").eval().double()
    for module in model.image_model.modules():
        if isinstance(module, TrailingPadConv2d):
            module.__class__, module.padding = torch.nn.Conv2d, (1, 1)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5
    images = pictures(2, size=64, seed=1).double()
    torch.testing.assert_close(model.image_model.features(images), theirs.eval().double().features(images))


def test_an_efficientnet_of_another_size_is_refused(imagenet, tmp_path):
    torch.save(imagenet.state_dict(), tmp_path / "b3.pth")
    with pytest.raises(InputError, match=r"b3\.pth: does not fit the model"):
        starting_model(SMALL, image_weights=tmp_path / "b3.pth")


# ---- the whole model ----


def test_a_released_file_brings_everything_and_its_sizes(tmp_path):
    """Under the names of a wrapped model, with the knowledge graph's layers and an old transformers' buffer."""
    state = AlignModel(SMALL, knowledge_graph=True).state_dict()
    state = {key: torch.randn_like(value) if value.is_floating_point() else value + 3 for key, value in state.items()}
    saved = {f"module.{key}": value for key, value in state.items()}
    saved["module.text_model.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save({"state_dict": saved, "config": vars(SMALL), "epoch": 3}, tmp_path / "align_model.pth")
    model = starting_model(AlignConfig(), tmp_path / "align_model.pth")
    assert model.config == SMALL
    loaded = model.state_dict()
    assert loaded.keys() == state.keys() and "relations_emb.weight" in loaded
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_a_start_at_random_has_relations_as_transe_wants_them():
    model = starting_model(SMALL)
    torch.testing.assert_close(model.relations_emb.weight.abs().sum(1), torch.ones(4))
    assert model.logit_scale == 1


def test_other_recall_files_are_refused(tmp_path):
    model = AlignModel(SMALL, knowledge_graph=True)
    save_checkpoint(tmp_path / "model.pth", model)
    content = torch.load(tmp_path / "model.pth")
    content["state_dict"]["surplus"] = torch.ones(1)
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"model\.pth: .*1 unexpected: surplus"):
        starting_model(SMALL, tmp_path / "model.pth")


@pytest.mark.parametrize("kind", ["model_path", "image_weights", "bert_weights"])
def test_a_pickle_that_would_run_code_is_refused(kind, tmp_path):
    live_bert(2).config.save_pretrained(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Malicious(tmp_path / "executed")}, path)
    with pytest.raises(InputError) as error:
        starting_model(SMALL, **{kind: tmp_path if kind == "bert_weights" else path})
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()

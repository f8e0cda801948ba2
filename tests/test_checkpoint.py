"""Weight files: every released tensor loads strictly, nothing runs, and what does not fit is named."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from models.align import AlignConfig, AlignModel
from models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from models.errors import InputError
from models.loading import KNOWN_KEYS, empty, load_align

RELEASE = Path(__file__).parent / "release"


def released_tensors(name: str) -> dict[str, torch.Tensor]:
    """Empty tensors of every name, shape and type in a released file."""
    tensors = {}
    for line in (RELEASE / f"{name}.tensors.txt").read_text().splitlines():
        key, shape, dtype = line.split()
        sizes = [] if shape == "scalar" else [int(size) for size in shape.split("x")]
        tensors[key] = torch.zeros(sizes, dtype=getattr(torch, dtype))
    return tensors


def test_every_released_tensor_loads_strictly(tmp_path, vocabulary):
    path = tmp_path / "align_model.pth"
    tensors = released_tensors("align_model")
    tensors["image_model._conv_stem.weight"] += 1.5
    torch.save({"state_dict": tensors, "epoch": 3, "min_loss": np.float64(0.4), "lr": np.float32(1e-4)}, path)

    towers = load_align(path, str(vocabulary), "cpu")
    loaded = towers.model.state_dict()
    assert loaded.keys() == {key for key in tensors if not key.startswith(KNOWN_KEYS)}
    assert all(torch.equal(loaded[key], tensors[key]) for key in loaded)
    assert not towers.model.training and towers.model.config == AlignConfig()
    assert load_checkpoint(path).extra == {"epoch": 3, "min_loss": 0.4, "lr": np.float32(1e-4)}


def test_with_the_knowledge_graph_nothing_but_position_ids_is_left_over():
    tensors = released_tensors("align_model")
    del tensors["text_model.embeddings.position_ids"]
    model = empty(AlignModel, AlignConfig(), knowledge_graph=True)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in tensors.items()}
    model.load_state_dict(tensors, strict=True, assign=True)


def test_own_checkpoints_carry_their_sizes(tmp_path, tiny_config, vocabulary):
    model = AlignModel(tiny_config)
    save_checkpoint(tmp_path / "small.pth", model, epoch=7)
    towers = load_align(tmp_path / "small.pth", str(vocabulary), "cpu")
    assert towers.model.config == tiny_config and towers.preprocess.size == tiny_config.image_size
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in towers.model.state_dict().items())
    assert load_checkpoint(tmp_path / "small.pth").extra == {"epoch": 7}


def test_the_prefix_of_a_wrapped_model_is_taken_off(tmp_path, tiny_config, vocabulary):
    state = {f"module.{key}": value for key, value in AlignModel(tiny_config).state_dict().items()}
    torch.save({"state_dict": state, "config": vars(tiny_config)}, tmp_path / "wrapped.pth")
    load_align(tmp_path / "wrapped.pth", str(vocabulary), "cpu")


def test_an_older_file_format_loads_too(tmp_path, tiny_config):
    state = AlignModel(tiny_config).state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "old.pth").state.keys() == state.keys()


class Malicious:
    """A pickle that makes a folder when it is loaded carelessly."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, save):
    path = tmp_path / "malicious.pth"
    save({"state_dict": {"a": torch.zeros(1)}, "extra": Malicious(tmp_path / "executed")}, path)
    with pytest.raises(InputError, match=r"malicious\.pth: .*never run"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    r"no such file.*download_release\.py.*https://github\.com": lambda path: path.unlink(),
    "HTML page": lambda path: path.write_text("\n<!DOCTYPE html><html>Not found</html>"),
    "cut off or damaged|damaged one": cut,
    "damaged": lambda path: path.write_bytes(b""),
    "not plain weights": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    "holds a list": lambda path: torch.save([1, 2], path),
    "no state dict": lambda path: torch.save({"state_dict": {"a": 1}}, path),
    "1 missing: logit_scale": lambda path: change(path, lambda state: state.pop("logit_scale")),
    "1 unexpected: surplus": lambda path: change(path, lambda state: state.update(surplus=torch.zeros(1))),
    r"logit_scale \(3,\) instead of \(\)": lambda path: change(path, lambda s: s.update(logit_scale=torch.zeros(3))),
    "ranking checkpoint": lambda path: change(path, lambda state: state.update({"align_model.a": torch.zeros(1)})),
    "wrong entries.*image_width": lambda path: change(path, config={"image_width": "wide"}),
    "wrong entries.*colour": lambda path: change(path, config={"colour": 1}),
    "wrong entries.*text_dim 16, no multiple": lambda path: change(path, config={"text_heads": 3}),
    r"wrong entries.*embed_dim 16\.0": lambda path: change(path, config={"embed_dim": 16.0}),
    "wrong entries.*text_layers 0": lambda path: change(path, config={"text_layers": 0}),
    "wrong entries.*image_width nan": lambda path: change(path, config={"image_width": float("nan")}),
    "wrong entries.*text_positions 8": lambda path: change(path, config={"text_positions": 8}),
    "16 tokens|tokens, but the model knows 5": lambda path: change(path, config={"vocab_size": 5}),
}


def change(path, edit=lambda state: None, config=None):
    content = torch.load(path, weights_only=True)
    edit(content["state_dict"])
    torch.save(content | {"config": content["config"] | (config or {})}, path)


@pytest.mark.parametrize("message", DAMAGE)
def test_what_is_wrong_with_a_file_is_said(message, tmp_path, tiny_align, vocabulary):
    path = tmp_path / "align_model.pth"
    path.write_bytes(tiny_align.read_bytes())
    if "tokens" in message:  # a model that really is that small
        save_checkpoint(path, AlignModel(AlignConfig(**load_checkpoint(path).config | {"vocab_size": 5})))
    else:
        DAMAGE[message](path)
    with pytest.raises(InputError, match=message) as error:
        load_align(path, str(vocabulary), "cpu")
    assert str(path) in str(error.value) or "tokens" in message
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_anywhere_is_said_to_be_damaged(tmp_path, zipped):
    torch.save({"a": torch.ones(3)}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in range(1, len(whole), 1 if len(whole) < 500 else 7):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.pth: .*damaged"):
            load_checkpoint(tmp_path / "cut.pth")


def test_long_lists_of_names_are_shortened(tiny_config):
    with pytest.raises(InputError, match=r"missing: .*, .*, .* and \d+ more"):
        load_weights(AlignModel(tiny_config), {}, "empty.pth")

"""From a weight file to a model that is ready to encode."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .align import AlignConfig, AlignModel
from .checkpoint import RANKING_URL, config_from, load_checkpoint, load_weights
from .errors import InputError
from .preprocess import Preprocess
from .ranking import RankingConfig, RankingModel
from .text import Tokenize

# In the released file, and no part of inference: a buffer of an older transformers, and the knowledge graph's layers.
KNOWN_KEYS = ("text_model.embeddings.position_ids", "relations_emb.", "linear_relation.")


class TwoTower(NamedTuple):
    """A model in eval mode with its preprocessing.

    `model.encode_image(preprocess(image)[None])` and `model.encode_text(**tokenize(texts))` are their vectors.
    """

    model: nn.Module
    preprocess: Callable[..., Tensor]  # PIL image -> (3, H, W)
    tokenize: Callable[[list[str]], dict[str, Tensor]]  # texts -> keyword arguments of encode_text


def load_align(model_path: str | Path, bert_path: str = "bert-base-chinese", device: str = "auto") -> TwoTower:
    """The recall model of a released (or self-trained) checkpoint.  InputError if a file does not fit."""
    device = resolve_device(device)
    state, config, _ = load_checkpoint(model_path)
    if any(key.startswith("align_model.") for key in state):
        raise InputError(f"{model_path}: this is a ranking checkpoint; the recall model is wanted (align_model.pth)")
    config = config_from(AlignConfig, config, model_path)
    model = empty(AlignModel, config)
    load_weights(model, state, model_path, known=KNOWN_KEYS)
    return TwoTower(model.eval().to(device), Preprocess(config.image_size), load_tokenize(bert_path, config))


class Ranker(NamedTuple):
    """A ranking model in eval mode, and the recall model inside it with its preprocessing."""

    model: RankingModel
    towers: TwoTower


def load_ranking(model_path: str | Path, bert_path: str = "bert-base-chinese", device: str = "auto") -> Ranker:
    """The ranking model of a released (or self-trained) checkpoint.  InputError if a file does not fit."""
    device = resolve_device(device)
    state, config, _ = load_checkpoint(model_path, RANKING_URL)
    if "image_hidden_layer.weight" in state:
        raise InputError(
            f"{model_path}: this is a recall checkpoint; the ranking model is wanted (the .ckpt of {RANKING_URL})"
        )
    config = config_from(RankingConfig, config, model_path)
    model = empty(RankingModel, config)
    load_weights(model, state, model_path, known=tuple(f"align_model.{key}" for key in KNOWN_KEYS))
    model = model.eval().to(device)
    towers = TwoTower(model.align_model, Preprocess(config.image_size), load_tokenize(bert_path, config))
    return Ranker(model, towers)


def load_tokenize(bert_path: str, config: AlignConfig) -> Tokenize:
    """The tokeniser, checked against the model: every id must have an embedding."""
    tokenize = Tokenize(bert_path)
    if tokenize.size > config.vocab_size:
        raise InputError(
            f"{bert_path}: {tokenize.size} tokens, but the model knows {config.vocab_size}; "
            "set bert_path to the vocabulary it was trained with"
        )
    return tokenize


def resolve_device(name: str) -> torch.device:
    """`auto`: the GPU if there is one.  InputError for a device that is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if name.partition(":")[0] not in ("cpu", "cuda"):
            raise RuntimeError("another kind")
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name}: not available here; use auto, cpu or cuda") from error
    return device


def empty(kind: type[nn.Module], config: AlignConfig, **options) -> nn.Module:
    """A model whose tensors have shapes but no memory yet: `load_weights` puts the checkpoint's into their places."""
    with torch.device("meta"):
        return kind(config, **options)


def num_cores() -> int:
    """The cores this process may use, which a container or `taskset` can limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Where training of the recall model starts: at random, from BERT and ImageNet weights, or from a recall model."""

import json
from pathlib import Path

import torch
from torch import nn

from .align import AlignConfig, AlignModel
from .checkpoint import config_from, load_checkpoint, load_weights
from .efficientnet import B0_STAGES
from .errors import InputError
from .losses import initialise_relations

BERT_SIZES = {  # a BERT config.json's name of each size -> ours
    "vocab_size": "vocab_size",
    "hidden_size": "text_dim",
    "num_attention_heads": "text_heads",
    "intermediate_size": "text_hidden",
    "max_position_embeddings": "text_positions",
}


def starting_model(sizes: AlignConfig, model_path=None, bert_weights=None, image_weights=None) -> AlignModel:
    """A model with the knowledge graph's layers, its weights from the files given and random otherwise.

    A recall checkpoint (`model_path`) brings all weights and its own sizes.
    """
    if model_path:
        state, config, _ = load_checkpoint(model_path)
        model = AlignModel(config_from(AlignConfig, config, model_path), knowledge_graph=True)
        load_weights(model, state, model_path, known=("text_model.embeddings.position_ids",))
        return model
    model = AlignModel(sizes, knowledge_graph=True)
    initialise_relations(model.relations_emb)
    widen_initialisation(model.text_model, sizes.text_dim)
    if bert_weights:
        load_bert(model, bert_weights)
    if image_weights:
        load_imagenet(model, image_weights)
    return model


@torch.no_grad()
def widen_initialisation(bert: nn.Module, dim: int) -> None:
    """Make up for a BERT narrower than the one its initialisation, a standard deviation of 0.02, was chosen for.

    Left as it is, a narrow tower's vectors hardly depend on the text at first, and it takes long to get away from that.
    """
    factor = (AlignConfig().text_dim / dim) ** 0.5  # 1 at the published width
    for module in bert.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.mul_(factor)


def bert_sizes(folder: str | Path) -> dict[str, int]:
    """The sizes of a BERT from its config.json; none where `folder` has no such file."""
    path = Path(folder, "config.json")
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {ours: int(config[theirs]) for theirs, ours in BERT_SIZES.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no BERT config with {', '.join(BERT_SIZES)} ({error})") from error


def load_bert(model: AlignModel, folder: str | Path) -> None:
    """The first layers of a BERT in the hub's layout: config.json and model.safetensors or pytorch_model.bin."""
    from transformers import BertConfig, BertModel

    sizes = {theirs: getattr(model.config, ours) for theirs, ours in BERT_SIZES.items()}
    config = BertConfig(**sizes, num_hidden_layers=model.config.text_layers)
    try:
        bert, report = BertModel.from_pretrained(
            str(folder), config=config, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # the library raises many kinds for files that are not there, damaged or of other sizes
        first_line = str(error).strip().partition("\n")[0]
        raise InputError(f"{folder}: no BERT of these sizes can be loaded from there ({first_line})") from error
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise InputError(f"{folder}: its weights are no BERT, {len(missing)} tensors are missing: {missing[0]} …")
    model.text_model.load_state_dict(bert.state_dict())


def load_imagenet(model: AlignModel, path: str | Path) -> None:
    """An ImageNet EfficientNet under efficientnet_pytorch's or torchvision's names, without its classifier."""
    own = model.image_model.state_dict()
    names = dict(zip(torchvision_names(model.config), own, strict=True))
    state = {names.get(key, key): tensor for key, tensor in load_checkpoint(path).state.items()}
    state |= {key: own[key] for key in ("_fc.weight", "_fc.bias")}
    load_weights(model.image_model, state, path)


def torchvision_names(config: AlignConfig) -> list[str]:
    """torchvision's names of an EfficientNet's tensors, which stand in the order of ours."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    sizes = {"width_mult": config.image_width, "depth_mult": config.image_depth}
    with torch.device("meta"):
        return list(EfficientNet([MBConvConfig(*stage, **sizes) for stage in B0_STAGES], dropout=0).state_dict())

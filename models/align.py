"""The recall model: EfficientNet-B3 and a 4-layer BERT that embed images and texts in one space (paper, stage 1)."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bert import Bert
from .efficientnet import B3_DEPTH, B3_WIDTH, EfficientNet, fold_batch_norm
from .text import MAX_TOKENS


@dataclass(frozen=True)
class AlignConfig:
    """Sizes of the two towers; the defaults are the published ones.  A checkpoint may carry its own as `config`."""

    image_size: int = 224
    image_width: float = B3_WIDTH  # EfficientNet's width multiplier
    image_depth: float = B3_DEPTH  # and depth multiplier
    embed_dim: int = 512
    vocab_size: int = 21128
    text_dim: int = 768
    text_layers: int = 4
    text_heads: int = 12
    text_hidden: int = 3072
    text_positions: int = 512
    relation_dim: int = 100  # of the knowledge graph's relations, training only

    def __post_init__(self):
        """ValueError for sizes that no model can have."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, int | field.type) and 0 < value < float("inf")):
                raise ValueError(f"{field.name} {value}")
        if self.text_dim % self.text_heads:
            raise ValueError(f"text_dim {self.text_dim}, no multiple of text_heads {self.text_heads}")
        if self.text_positions < MAX_TOKENS:
            raise ValueError(f"text_positions {self.text_positions}, fewer than a text's {MAX_TOKENS} tokens")


class AlignModel(nn.Module):
    """Two towers with L2-normalised outputs; the score of an image for a text is the dot product of their vectors.

    With `knowledge_graph` it has the TransE layers too, which the released file holds and only training uses.
    """

    RELATIONS = ("has_cate", "has_image", "has_title")

    def __init__(self, config: AlignConfig | None = None, knowledge_graph: bool = False):
        super().__init__()
        self.config = config = config or AlignConfig()
        self.logit_scale = nn.Parameter(torch.tensor(1.0))  # multiplies the cosine in the loss, not exponentiated
        self.image_model = EfficientNet(config.embed_dim, config.image_width, config.image_depth)
        self.text_model = Bert(
            config.vocab_size,
            config.text_dim,
            config.text_layers,
            config.text_heads,
            config.text_hidden,
            config.text_positions,
        )
        self.image_hidden_layer = nn.Linear(config.embed_dim, config.embed_dim)
        self.text_hidden_layer = nn.Linear(config.text_dim, config.embed_dim)
        if knowledge_graph:
            padding = len(self.RELATIONS)
            self.relations_emb = nn.Embedding(padding + 1, config.relation_dim, padding_idx=padding)
            self.linear_relation = nn.Linear(config.relation_dim, config.embed_dim)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) from `Preprocess` -> (B, embed_dim), L2-normalised."""
        images = images.to(self.logit_scale.device)
        return F.normalize(self.image_hidden_layer(self.image_model(images)), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) token ids and mask from `Tokenize` -> (B, embed_dim), L2-normalised."""
        device = self.logit_scale.device
        first = self.text_model(input_ids.to(device), attention_mask.to(device))  # (B, text_dim)
        return F.normalize(self.text_hidden_layer(first), dim=-1)

    def image_tower(self) -> nn.Module:
        """A copy of the image side for fast inference: (B, 3, H, W) -> (B, embed_dim), equal to 1e-5."""
        tower = ImageTower(fold_batch_norm(self.image_model), self.image_hidden_layer)
        return tower.eval()


class ImageTower(nn.Module):
    """`AlignModel.encode_image` alone, as a module."""

    def __init__(self, image_model: nn.Module, image_hidden_layer: nn.Module):
        super().__init__()
        self.image_model, self.image_hidden_layer = image_model, image_hidden_layer

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        return F.normalize(self.image_hidden_layer(self.image_model(images)), dim=-1)

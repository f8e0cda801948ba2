"""The ranking model: a click score for one image of an item, helped by the item's POIs (paper, stage 2).

Both images of a pair pass through the same weights; the one with the higher score is predicted to be clicked more.
"""

from collections import OrderedDict
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .align import AlignConfig, AlignModel


@dataclass(frozen=True)
class RankingConfig(AlignConfig):
    """Sizes of the ranking model, those of the recall model inside it included; the defaults are the published ones."""

    attention_hidden: int = 64
    attention_output: int = 16
    head_hidden: int = 512
    head_output: int = 256

    def align(self) -> AlignConfig:
        """The sizes of the recall model alone."""
        return AlignConfig(**{field.name: getattr(self, field.name) for field in fields(AlignConfig)})


class RankingModel(nn.Module):
    """Scores images from the vectors that its frozen recall model, `align_model`, gives; see `forward`.

    The layers' names, and the odd order of their numbers, are those of the released file.
    """

    def __init__(self, config: RankingConfig | None = None):
        super().__init__()
        self.config = config = config or RankingConfig()
        dim = config.embed_dim
        self.align_model = AlignModel(config.align()).requires_grad_(False)
        self.linear1 = nn.Linear(2 * dim, dim)
        self.attention_layer = Attention(dim, config.attention_hidden, config.attention_output)
        self.linear3 = nn.Linear(3 * dim, config.head_hidden)
        self.linear4 = nn.Linear(config.head_hidden, config.head_output)
        self.linear2 = nn.Linear(config.head_output, 1)
        self.dropout = nn.Dropout(0.1)

    def train(self, mode: bool = True) -> "RankingModel":
        super().train(mode)
        self.align_model.eval()  # frozen: no dropout, and batch-norm statistics that stay
        return self

    def forward(
        self,
        image_vectors: Tensor,
        text_vectors: Tensor,
        poi_image_vectors: Tensor,
        poi_name_vectors: Tensor,
        poi_counts: Tensor,
    ) -> Tensor:
        """Scores (B,) of images (B, D) for items with texts (B, D) and POIs (B, P, D), of which n (B,) are real.

        Vectors go in, not images: each is computed once and scored as often as need be.  `PoiKnowledge.features` has
        the POIs of an item.
        """
        pois = torch.cat((poi_image_vectors, poi_name_vectors), dim=-1)  # (B, P, 2D)
        pois = self.dropout(self.linear1(pois))  # (B, P, D)
        pooled = self.attention_layer(image_vectors, pois, poi_counts)  # (B, D)
        x = torch.cat((image_vectors, text_vectors, pooled), dim=-1)  # (B, 3D)
        x = F.relu(self.dropout(self.linear3(x)))
        x = F.relu(self.dropout(self.linear4(x)))
        return self.linear2(x).squeeze(-1)


class Attention(nn.Module):
    """DIN's attention (Zhou et al., KDD '18): how much each POI matters for this image.

    The weights are not normalised (no softmax), as in the paper, so that their sum tells how strong the match is.
    """

    def __init__(self, dim: int, hidden: int, output: int):
        super().__init__()
        first = nn.Sequential(nn.Linear(4 * dim, hidden), Dice(hidden), nn.Dropout(0.2), nn.Linear(hidden, output))
        second = nn.Sequential(nn.Linear(output, 1))
        self.local_att = nn.Sequential(OrderedDict(fc1=within("fc", first), fc2=within("fc", second)))

    def forward(self, query: Tensor, keys: Tensor, counts: Tensor) -> Tensor:
        """(B, D) image and (B, P, D) POIs, of which the first `counts` (B,) are real -> (B, D)."""
        query = query[:, None].expand_as(keys)
        weights = self.local_att(torch.cat((query, keys, query - keys, query * keys), dim=-1))  # (B, P, 1)
        padding = torch.arange(keys.shape[1], device=keys.device) >= counts[:, None]  # (B, P)
        return (weights.masked_fill(padding[..., None], 0) * keys).sum(dim=1)


class Dice(nn.Module):
    """DIN's activation s·x + α·(1 − s)·x with s = sigmoid(batch-norm(x)).  α is 0 in the release, which leaves s·x."""

    def __init__(self, size: int):
        super().__init__()
        self.bn = nn.BatchNorm1d(size, eps=1e-9)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, size) -> (B, P, size); statistics are taken over B and P."""
        return torch.sigmoid(self.bn(x.flatten(0, 1)).view_as(x)) * x


def within(name: str, module: nn.Module) -> nn.Module:
    """`module` one level deeper, as the released parameter names have it."""
    return nn.Sequential(OrderedDict({name: module}))

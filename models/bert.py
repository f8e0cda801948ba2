"""BERT (Devlin et al., NAACL 2019) as transformers' BertModel computes it, under its parameter names.

Only the first token's vector is computed to the end, since that is what the text tower reads.  Written out here because
importing transformers takes as long as encoding fifty photographs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.1


class Bert(nn.Module):
    """(B, T) token ids and mask, T <= positions -> (B, dim), the last layer's vector of the first token."""

    def __init__(self, vocab_size: int, dim: int, layers: int, heads: int, hidden: int, positions: int):
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": embedding(vocab_size, dim, padding_idx=0),
                "position_embeddings": embedding(positions, dim),
                "token_type_embeddings": embedding(2, dim),
                "LayerNorm": layer_norm(dim),
            }
        )
        self.dropout = nn.Dropout(DROPOUT)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(BertLayer(dim, heads, hidden) for _ in range(layers))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(dim, dim)})  # in the released file, and not used
        self.apply(initialise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tables = self.embeddings
        x = tables["word_embeddings"](input_ids) + tables["token_type_embeddings"].weight[0]
        x = x + tables["position_embeddings"].weight[: input_ids.shape[1]]
        x = self.dropout(tables["LayerNorm"](x))  # (B, T, dim)
        mask = attention_mask[:, None, None].bool()  # (B, 1, 1, T)
        *layers, last = self.encoder["layer"]
        for layer in layers:
            x = layer(x, x, mask)
        return last(x[:, :1], x, mask)[:, 0]


class BertLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        projections = nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": projections, "output": sublayer(dim, dim)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, hidden)})
        self.output = sublayer(hidden, dim)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """What (B, Q, dim) queries become, having attended to (B, T, dim) tokens where the (B, 1, 1, T) mask allows."""
        own = self.attention["self"]
        attended = F.scaled_dot_product_attention(
            self.split(own["query"](queries)),
            self.split(own["key"](tokens)),
            self.split(own["value"](tokens)),
            attn_mask=mask,
            dropout_p=self.dropout.p if self.training else 0.0,
        )  # (B, heads, Q, dim / heads)
        x = self.close(self.attention["output"], attended.transpose(1, 2).flatten(2), queries)
        return self.close(self.output, F.gelu(self.intermediate["dense"](x)), x)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def close(self, layers: nn.ModuleDict, x: Tensor, residual: Tensor) -> Tensor:
        return layers["LayerNorm"](self.dropout(layers["dense"](x)) + residual)


def sublayer(inputs: int, dim: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inputs, dim), "LayerNorm": layer_norm(dim)})


def embedding(rows: int, dim: int, padding_idx: int | None = None) -> nn.Embedding:
    """A table for `initialise` to fill."""
    return nn.Embedding.from_pretrained(torch.empty(rows, dim), freeze=False, padding_idx=padding_idx)


def layer_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-12)


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    if not isinstance(module, nn.Linear | nn.Embedding) or module.weight.is_meta:
        return
    nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        module.weight[module.padding_idx].zero_()

"""What the recall model is trained on: the contrast within a batch, and the knowledge graph's TransE loss."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

MARGIN = 1.0


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy over the cosines of N matching rows (N, D), and the share of images that find their text.

    Every other row is taken for a mismatch, so a batch should not hold the same text twice.
    """
    logits = logit_scale * images @ texts.T  # (N, N)
    own = torch.arange(len(logits), device=logits.device)
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, (logits.argmax(dim=1) == own).float().mean()


def transe_loss(heads: Tensor, relations: Tensor, tails: Tensor, wrong_tails: Tensor) -> tuple[Tensor, Tensor]:
    """TransE (Bordes et al., NIPS '13) on rows (M, D): head + relation shall be nearer to the tail than to a wrong one.

    Returns the margin ranking loss and the mean distance of the true triples; distances are L1 norms.
    """
    true = (heads + relations - tails).abs().sum(dim=-1)  # (M,)
    wrong = (heads + relations - wrong_tails).abs().sum(dim=-1)
    return F.relu(true - wrong + MARGIN).mean(), true.mean()


@torch.no_grad()
def initialise_relations(embedding: nn.Embedding) -> None:
    """As the paper of TransE has it: uniform within ±6/√dim, then each row to an L1 norm of 1."""
    bound = 6 / embedding.embedding_dim**0.5
    embedding.weight.copy_(F.normalize(embedding.weight.uniform_(-bound, bound), p=1, dim=1))


class GatherRows(torch.autograd.Function):
    """The rows (N, D) of all processes as (processes · N, D); gradients of all processes flow back to the owner."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: Tensor) -> Tensor:
    """`rows` of every process, in the order of the processes; as they are where there is but one process."""
    return GatherRows.apply(rows) if dist.is_initialized() else rows

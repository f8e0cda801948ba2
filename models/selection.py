"""Both stages as one: recall keeps the candidates that fit an item's content, ranking orders them by click score.

Scores are computed in double precision and rounded to single.  In single precision a score's last digits depend on the
image's place in a batch, so that of two equal images either could come first; this way it is the first by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from .items import Item
from .poi import PoiKnowledge
from .ranking import RankingModel

# How much is scored at a time, so that memory grows neither with the items nor with the images.
TEXT_BLOCK, IMAGE_BLOCK, PAIR_BLOCK = 256, 16384, 1024


class Recalled(NamedTuple):
    """What recall found for an item: its best images, best first, and how many there were."""

    indices: list[int]  # into the pool
    scores: list[float]  # cosines
    kept: int  # the first so many fit the item
    candidates: int
    below_threshold: int


class Choice(NamedTuple):
    """One image of an item: chosen, or why not.  Ranks start at 1; an image that fell out has no click score."""

    index: int  # into the pool
    verdict: str  # chosen, below_threshold or beyond_recall_k
    click_rank: int | None
    click_score: float | None
    recall_rank: int
    recall_score: float


class Selection(NamedTuple):
    """What became of an item's candidates."""

    item: Item
    choices: list[Choice]  # the chosen ones by click rank, then the best of the others by recall rank
    candidates: int
    chosen: int
    below_threshold: int

    @property
    def beyond_recall_k(self) -> int:
        return self.candidates - self.chosen - self.below_threshold


def recall_items(
    texts: Tensor,
    images: Tensor,
    own: Sequence[list[int] | None],
    recall_k: int,
    rejected_k: int = 0,
    threshold: float | None = None,
) -> list[Recalled]:
    """Keep the `recall_k` best images of each text, less those below `threshold`; list `rejected_k` of the others too.

    `texts` (I, D) and `images` (N, D) are normalised; `own` has the indices of each item's own candidates, in order, or
    None for all images.  Of images with equal scores the first is better.
    """
    listed = recall_k + rejected_k
    found: list[Recalled | None] = [None] * len(texts)
    anyone = [item for item, indices in enumerate(own) if indices is None]
    for start in range(0, len(anyone), TEXT_BLOCK):
        block = anyone[start : start + TEXT_BLOCK]
        for item, recalled in zip(block, recall_block(texts[block], images, recall_k, listed, threshold), strict=True):
            found[item] = recalled
    for item, indices in enumerate(own):
        if indices is not None:
            (recalled,) = recall_block(texts[item : item + 1], images[indices], recall_k, listed, threshold)
            found[item] = recalled._replace(indices=[indices[index] for index in recalled.indices])
    return found


def recall_block(texts: Tensor, images: Tensor, recall_k: int, listed: int, threshold: float | None) -> list[Recalled]:
    """`recall_items` for a few texts (B, D) that share all the images (N, D)."""
    best, scores = torch.empty(len(texts), 0, dtype=torch.int64), torch.empty(len(texts), 0)
    fitting = torch.zeros(len(texts), dtype=torch.int64)
    texts = texts.double()
    for start in range(0, len(images), IMAGE_BLOCK):
        block = (texts @ images[start : start + IMAGE_BLOCK].double().T).float()  # (B, n)
        fitting += block.shape[1] if threshold is None else (block >= threshold).sum(dim=1)
        indices = first_best(block, listed)
        # What was found before stands first, so a stable sort prefers it to an equal score of this block.
        best = torch.cat((best, indices + start), dim=1)
        scores = torch.cat((scores, block.gather(1, indices)), dim=1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        best, scores = best.gather(1, order)[:, :listed], scores[:, :listed]
    found = []
    for indices, cosines, fit in zip(best.tolist(), scores.tolist(), fitting.tolist(), strict=True):
        kept = min(recall_k, fit)
        end = kept + listed - recall_k
        found.append(Recalled(indices[:end], cosines[:end], kept, len(images), len(images) - fit))
    return found


def first_best(scores: Tensor, k: int) -> Tensor:
    """Indices (B, k) of the highest of scores (B, n), in ascending order; of equal scores the first ones."""
    k = min(k, scores.shape[1])
    values, indices = scores.topk(k, dim=1)
    # topk takes any of the scores that equal the last one it takes; where there are more of them, sort.
    tied = (scores >= values[:, -1:]).sum(dim=1) > k
    if tied.any():
        indices[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return indices.sort(dim=1).values


@torch.inference_mode()
def rank_items(
    model: RankingModel,
    poi: PoiKnowledge,
    items: Sequence[Item],
    texts: Mapping[str, Tensor],
    recalled: Sequence[Recalled],
    images: Sequence[Tensor] | Mapping[int, Tensor],
) -> Iterator[Selection]:
    """Order what recall kept by click score.

    `texts` has the vector of each item's text and `images` those of the images by index, both of the recall model
    inside `model`.  Of images with equal click scores the one that recall ranked higher comes first.
    """
    device = model.linear1.weight.device
    head = {name: value.double() for name, value in model.state_dict().items() if not name.startswith("align_model.")}
    pairs = [(item, index) for item, each in enumerate(recalled) for index in each.indices[: each.kept]]
    clicks = []
    for start in range(0, len(pairs), PAIR_BLOCK):
        owners, indices = zip(*pairs[start : start + PAIR_BLOCK], strict=True)
        distinct = {item: row for row, item in enumerate(dict.fromkeys(owners))}
        features = zip(*(poi.features(items[item].poi_names) for item in distinct), strict=True)
        poi_images, poi_names, counts = (torch.stack([torch.as_tensor(each) for each in part]) for part in features)
        rows = torch.tensor([distinct[item] for item in owners])
        image_vectors = torch.stack([images[index] for index in indices])  # (P, D)
        text_vectors = torch.stack([texts[items[item].text] for item in owners])
        inputs = image_vectors, text_vectors, poi_images[rows], poi_names[rows]  # the last two (P, 5, D)
        inputs = *(each.to(device).double() for each in inputs), counts[rows].to(device)
        clicks += functional_call(model, head, inputs).float().tolist()  # (P,)
    scores = iter(clicks)
    for item, each in zip(items, recalled, strict=True):
        rows = choices(each, [next(scores) for _ in range(each.kept)])
        yield Selection(item, rows, each.candidates, each.kept, each.below_threshold)


def choices(recalled: Recalled, clicks: list[float]) -> list[Choice]:
    """One item's images with both ranks; `clicks` are the click scores of those that recall kept."""
    chosen = sorted(range(recalled.kept), key=lambda place: -clicks[place])  # stable
    rows = [
        Choice(recalled.indices[place], "chosen", rank, clicks[place], place + 1, recalled.scores[place])
        for rank, place in enumerate(chosen, 1)
    ]
    fitting = recalled.candidates - recalled.below_threshold
    for place in range(recalled.kept, len(recalled.indices)):
        verdict = "beyond_recall_k" if place < fitting else "below_threshold"
        rows.append(Choice(recalled.indices[place], verdict, None, None, place + 1, recalled.scores[place]))
    return rows

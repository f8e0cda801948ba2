"""Stage 2's scores: both images of every pair, and the CSV `item_id,image_a,image_b,score_a,score_b,label`."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .files import replacing
from .poi import PoiKnowledge, item_text
from .ranking import RankingModel
from .tables import Pair

HEADER = ("item_id", "image_a", "image_b", "score_a", "score_b", "label")


@torch.inference_mode()
def score_pairs(
    model: RankingModel,
    poi: PoiKnowledge,
    pairs: Sequence[Pair],
    image_vectors: Mapping[str, Tensor],
    text_vectors: Mapping[str, Tensor],
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) of images a and of images b; the mappings have vectors (D,) by file name and by `item_text`."""
    device = model.linear1.weight.device
    scores = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        items = item_inputs(poi, batch, text_vectors, device)
        for names in ([pair.image_a for pair in batch], [pair.image_b for pair in batch]):
            images = torch.stack([image_vectors[name] for name in names]).to(device)  # (B, D)
            scores.append(model(images, *items).cpu())  # (B,)
    if not torch.cat(scores).isfinite().all():
        raise InputError("the ranking model's scores are no finite numbers; its weights or the POI vectors are damaged")
    return torch.cat(scores[::2]).numpy(), torch.cat(scores[1::2]).numpy()


def item_inputs(
    poi: PoiKnowledge, pairs: Sequence[Pair], text_vectors: Mapping[str, Tensor], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the model is told of the items: texts (B, D), POI image and name vectors (B, P, D), POI counts (B,)."""
    texts = torch.stack([text_vectors[item_text(pair.title, pair.poi_names)] for pair in pairs])
    images, names, counts = zip(*(poi.features(pair.poi_names) for pair in pairs), strict=True)
    inputs = texts, torch.stack(images), torch.stack(names), torch.tensor(counts)
    return tuple(each.to(device) for each in inputs)


def write_pair_scores(path: str | Path, pairs: Sequence[Pair], scores_a: np.ndarray, scores_b: np.ndarray) -> None:
    """One row a pair, in the order of `pairs`; nine digits are every float32 exactly."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for pair, a, b in zip(pairs, scores_a.tolist(), scores_b.tolist(), strict=True):
            writer.writerow([pair.item_id, pair.image_a, pair.image_b, f"{a:.9g}", f"{b:.9g}", int(pair.label)])

"""Training of the recall model: the loss of one batch, and the held-out recall@K."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .align import AlignModel
from .encode import encode_images, encode_texts
from .errors import InputError
from .images import list_images, poi_of_image
from .loading import TwoTower
from .losses import contrastive_loss, gather_rows, transe_loss
from .pairs_data import unreadable_images
from .recall_metrics import recall_at_k
from .recall_results import RecallScores
from .script import listing
from .tables import poi_names, read_recall_table


class AlignTraining(nn.Module):
    """A batch of `AlignBatches` -> the loss and what is logged: contrast, its accuracy, TransE and its distance."""

    def __init__(self, model: AlignModel, triple_weight: float, with_triples: bool, dropout: bool = True):
        super().__init__()
        if not dropout:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        self.model, self.triple_weight = model, triple_weight if with_triples else 0.0
        model.image_model.to(memory_format=torch.channels_last)  # much faster, on a CPU too
        model.text_model.pooler.requires_grad_(False)  # in the released file, and part of no loss
        for layer in (model.relations_emb, model.linear_relation):
            layer.requires_grad_(self.triple_weight > 0)

    def forward(self, batch: dict[str, Tensor], pairs: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The first `pairs` rows of the images and of the texts match each other, see `AlignBatches`."""
        model = self.model
        images = model.encode_image(batch["images"].contiguous(memory_format=torch.channels_last)).float()  # (I, D)
        texts = model.encode_text(batch["input_ids"], batch["attention_mask"]).float()  # (T, D)
        contrast, accuracy = contrastive_loss(
            gather_rows(images[:pairs]), gather_rows(texts[:pairs]), model.logit_scale
        )
        figures = {"loss": contrast, "contrast": contrast, "accuracy": accuracy}
        if self.triple_weight:
            entities = torch.cat((texts, images))  # (T + I, D)
            relations = model.linear_relation(model.relations_emb(batch["relations"]))
            transe, distance = transe_loss(
                texts[batch["heads"]],
                F.normalize(relations.float(), dim=-1),  # (M, D)
                entities[batch["tails"]],
                entities[batch["wrong_tails"]],
            )
            figures |= {"loss": contrast + self.triple_weight * transe, "transe": transe, "distance": distance}
        return figures["loss"], {name: value.detach() for name, value in figures.items()}

    def adapt_batch_norm(self, step: int) -> None:
        """Let the statistics of a randomly started image tower be a plain mean first, then the usual moving average.

        With EfficientNet's momentum of 0.01 alone, a few hundred steps would not forget where they started.
        """
        for module in self.model.image_model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = max(0.01, 1 / (step + 1))


class HeldOut(NamedTuple):
    """POIs and images that no training sees, as stage 1 has them."""

    names: dict[str, str]  # poi_id -> name
    paths: list[Path]

    @classmethod
    def load(cls, table: str | Path, image_dir: str | Path) -> "HeldOut":
        names = poi_names(read_recall_table(table))
        paths = [path for path in list_images(image_dir) if "_" in path.name]
        bad = unreadable_images(image_dir, [path.name for path in paths])
        listing("held-out images that cannot be read", [f"{name}: {reason}" for name, reason in bad.items()])
        paths = [path for path in paths if path.name not in bad]
        if not names.keys() & {poi_of_image(path.name) for path in paths}:
            raise InputError(f"{image_dir}: none of its images is one of a POI in {table}")
        return cls(names, paths)

    def recall(self, towers: TwoTower, k: int) -> float:
        """recall@K of the POIs over all images, with the model in eval mode; its mode stays."""
        training = towers.model.training
        images = encode_images(TwoTower(towers.model.eval(), *towers[1:]), self.paths)
        texts = encode_texts(towers, self.names.values())
        towers.model.train(training)
        scores = torch.stack([texts[name] for name in self.names.values()]) @ images.vectors.T  # (P, I)
        poi, image = np.indices(scores.shape, dtype=np.int32).reshape(2, -1)
        ids, names = list(self.names), list(self.names.values())
        return recall_at_k(
            RecallScores("", ids, names, [path.name for path in images.paths], poi, image, scores.flatten().numpy()), k
        )

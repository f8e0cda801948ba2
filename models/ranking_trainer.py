"""The loop that trains the ranking model: epochs, log, validation, and checkpoints from which it goes on exactly."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import save_checkpoint
from .encode import computing_in
from .errors import InputError
from .loading import Ranker
from .pair_scores import item_inputs, score_pairs
from .poi import PoiKnowledge
from .ranking_data import EncodedPairs, PairBatches
from .ranking_metrics import pair_metrics
from .script import progress
from .tables import Pair
from .training import batches_ahead, resume, seed_of, stop_request

# The settings that decide how step follows step: a run that is resumed must have the same, but may get more epochs.
RUN_KEYS = ("batch_size", "learning_rate", "augment", "precision", "seed")


def pair_loss(scores_a: Tensor, scores_b: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(score_a - score_b) (B,) against whether image a was clicked more."""
    return F.binary_cross_entropy_with_logits(scores_a - scores_b, labels)


class RankingTrainer:
    """Trains the head of `ranker.model` by the settings of train_ranking.py; `pairs` is how many there are."""

    def __init__(self, config, ranker: Ranker, poi: PoiKnowledge, pairs: int):
        self.config, self.poi, self.model = config, poi, ranker.model.train()
        self.device = self.model.linear1.weight.device
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate)
        self.step, self.best, self.best_epoch = 0, -1.0, 0  # steps done; the best validation accuracy, and its epoch
        self.run = {key: getattr(config, key) for key in RUN_KEYS} | {"pairs": pairs}
        self.last_path = Path(f"{config.output_prefix}_last.ckpt")

    @property
    def best_path(self) -> Path:
        return Path(f"{self.config.output_prefix}_{self.best_epoch:03d}_{self.best:.4f}.ckpt")

    def resume(self) -> None:
        """Go on where `last_path` stopped, with the recall model in it."""
        state = resume(self.last_path, self.model, self.optimizer, self.run)
        self.step, self.best, self.best_epoch = state["step"], state["best"], state["best_epoch"]
        print(f"going on after step {self.step} with the recall model that is in {self.last_path}")

    def train(self, training: EncodedPairs, batches: PairBatches, validation: EncodedPairs) -> None:
        """Train all epochs that are left.  A stop request finishes a step, writes `last` and then interrupts."""
        config, per_epoch = self.config, batches.per_epoch
        steps = range(self.step, config.epochs * per_epoch)
        workers = config.num_workers if config.augment else 0  # without images there is nothing to prepare
        ahead = batches_ahead(batches, steps, workers, self.device)
        tower = self.model.align_model.image_tower() if config.augment else None
        with stop_request() as stop, closing(ahead):
            while self.step < steps.stop:
                epoch, left = self.step // per_epoch + 1, per_epoch - self.step % per_epoch
                total, since = Counter(), time.perf_counter()
                bar = {"total": left, "desc": f"epoch {epoch}", "unit": "step", "leave": False}
                for batch in progress(islice(ahead, left), **bar):
                    total.update(self.take_step(batch, training, tower))
                    self.step += 1
                    if stop.requested:
                        break
                if self.step % per_epoch == 0:
                    figures = self.figures(total, time.perf_counter() - since)
                    self.validate(epoch, validation, figures)
                self.save(self.last_path, optimizer=self.optimizer.state_dict())
                if stop.requested:
                    print(f"stopped after step {self.step}, which is in {self.last_path}; --resume goes on")
                    raise KeyboardInterrupt
        print(f"best validation accuracy {self.best:.4f}, after epoch {self.best_epoch}: {self.best_path}")

    def take_step(self, batch: dict[str, Tensor], training: EncodedPairs, tower: nn.Module | None) -> dict[str, float]:
        """One step of the optimizer; what is logged, summed over the batch.  InputError where numbers explode."""
        pairs = [training.pairs[row] for row in batch["rows"].tolist()]
        labels = torch.tensor([float(pair.label) for pair in pairs], device=self.device)
        images = self.encode(batch["images"], tower) if tower else stacked_images(pairs, training.image_vectors)
        items = item_inputs(self.poi, pairs, training.text_vectors, self.device)
        torch.manual_seed(seed_of(self.config.seed, 2, self.step))  # dropout
        scores = self.model(images.to(self.device), *(torch.cat((each, each)) for each in items))  # (2B,)
        scores_a, scores_b = scores.chunk(2)
        loss = pair_loss(scores_a, scores_b, labels)
        self.check_finite(loss, "loss", self.step + 1)

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in self.parameters])
        self.check_finite(norm, "gradient", self.step + 1)
        self.optimizer.step()
        hits = ((scores_a > scores_b) == labels.bool()).sum()
        return {"pairs": len(pairs), "loss": loss.item() * len(pairs), "hits": hits.item()}

    @torch.no_grad()  # not inference_mode, whose results autograd would refuse
    def encode(self, images: Tensor, tower: nn.Module) -> Tensor:
        """Vectors (2B, D) of augmented images (2B, 3, H, W)."""
        with computing_in(self.config.precision, self.device):
            return tower(images.to(self.device, non_blocking=True)).float()

    def check_finite(self, value: Tensor, what: str, step: int) -> None:
        if not torch.isfinite(value).all():
            raise InputError(
                f"step {step}: the {what} is no longer finite; lower learning_rate. "
                f"What was last written, {self.last_path} for one, is kept"
            )

    def figures(self, total: Counter, seconds: float) -> str:
        """What an epoch gave in training; of one that was resumed, the part since then."""
        count = total["pairs"]
        means = f"loss {total['loss'] / count:.4f}  accuracy {total['hits'] / count:.4f}"
        return f"{means}  {count / seconds:.0f} pairs/s"

    def validate(self, epoch: int, validation: EncodedPairs, figures: str) -> None:
        """Log the epoch with its validation accuracy; the best weights so far replace the earlier best."""
        pairs, *vectors = validation
        self.model.eval()
        scores = score_pairs(self.model, self.poi, pairs, *vectors)
        self.model.train()
        self.check_finite(torch.from_numpy(np.stack(scores)), "validation score", self.step)
        accuracy = pair_metrics(*scores, [pair.label for pair in pairs]).auc
        better = accuracy > self.best
        validated = f"validation {accuracy:.4f}" + (", the best so far" if better else "")
        print(f"epoch {epoch}/{self.config.epochs}  {figures}  {validated}", flush=True)
        if better:
            earlier, self.best, self.best_epoch = self.best_path, accuracy, epoch
            self.save(self.best_path)
            earlier.unlink(missing_ok=True)

    def save(self, path: Path, **extra) -> None:
        state = {"step": self.step, "best": self.best, "best_epoch": self.best_epoch, "run": self.run}
        save_checkpoint(path, self.model, **state, **extra)


def stacked_images(pairs: Sequence[Pair], vectors: Mapping[str, Tensor]) -> Tensor:
    """(2B, D): first all images a, then all images b."""
    return torch.stack([vectors[pair.image_a] for pair in pairs] + [vectors[pair.image_b] for pair in pairs])

"""The loop that trains the recall model: steps, log, evaluation, and checkpoints from which it goes on exactly."""

import math
import time
from collections import Counter
from contextlib import closing

import torch
from torch import Tensor, nn

from .align_training import AlignTraining, HeldOut
from .checkpoint import save_checkpoint
from .distributed import Process
from .encode import computing_in
from .errors import InputError
from .loading import TwoTower
from .pairs_data import AlignBatches
from .training import batches_ahead, learning_rate, resume, seed_of, stop_request

# The settings that decide how step follows step: a run that is resumed must have the same.
RUN_KEYS = (
    *("steps", "batch_size", "triple_batch", "triple_weight", "learning_rate", "logit_scale_rate", "warmup_steps"),
    *("weight_decay", "augment", "dropout", "precision", "seed"),
)
MAX_GRADIENT = 1.0  # gradients are clipped to this norm


class AlignTrainer:
    """Trains `towers.model` by the settings of train_align.py."""

    def __init__(self, config, process: Process, towers: TwoTower, batches: AlignBatches, held_out: HeldOut | None):
        self.config, self.process, self.towers = config, process, towers
        self.batches, self.held_out = batches, held_out
        self.model = towers.model
        self.training = AlignTraining(self.model, config.triple_weight, bool(batches.triples), config.dropout)
        self.module = process.wrap(self.training).train()
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=config.precision == "fp16")
        self.from_scratch = not (config.init_model_path or config.init_image_path)
        self.step, self.best = 0, -1.0  # steps done, and the best held-out recall@K so far
        self.run = {key: getattr(config, key) for key in RUN_KEYS}
        self.run |= {"pairs": len(batches.pairs), "triples": len(batches.triples), "processes": process.count}

    def resume(self) -> None:
        """Go on where `last_path` stopped."""
        state = resume(self.config.last_path, self.model, self.optimizer, self.run)
        self.scaler.load_state_dict(state["scaler"])
        self.from_scratch = state["from_scratch"]  # those weights need not be named again
        self.step, self.best = state["step"], state["best"]
        print(f"going on after step {self.step}")

    def train(self) -> None:
        """Take all steps that are left.  A stop request finishes a step, writes `last` and then interrupts."""
        config, total, since = self.config, Counter(), time.perf_counter()
        steps = range(self.step, config.steps)
        ahead = batches_ahead(self.batches, steps, config.num_workers, self.process.device)
        with stop_request() as stop, closing(ahead):
            for batch in ahead:
                total.update(self.take_step(batch, stop.requested) | {"steps": 1})
                self.step += 1
                ends = self.step == config.steps
                if self.step % config.log_every == 0 or ends:
                    self.log(total, time.perf_counter() - since)
                stops = total["stop"] > 0
                evaluates = self.held_out and (self.step % config.eval_every == 0 or ends)
                if evaluates:
                    self.evaluate()
                if self.step % config.save_every == 0 or ends or stops:
                    self.save_last()
                if stops:
                    if self.process.rank == 0:
                        print(f"stopped after step {self.step}, which is in {config.last_path}; --resume goes on")
                    raise KeyboardInterrupt
                if self.step % config.log_every == 0:
                    total, since = Counter(), time.perf_counter()
        print(f"wrote {config.last_path}" + (f" and {config.best_path}" if self.best >= 0 else ""))

    def take_step(self, batch: dict[str, Tensor], stop: bool) -> dict[str, float]:
        """One step of the optimizer; what is logged, as means over all processes.  InputError where numbers explode."""
        config, process = self.config, self.process
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config.steps, config.warmup_steps, group["peak"])
        if self.from_scratch:
            self.training.adapt_batch_norm(self.step)
        torch.manual_seed(seed_of(config.seed, 2, self.step, process.rank))  # dropout, stochastic depth
        batch = {name: value.to(process.device, non_blocking=True) for name, value in batch.items()}
        with computing_in(config.precision, process.device):
            loss, figures = self.module(batch, config.batch_size)
        figures["stop"] = torch.tensor(float(stop), device=process.device)
        means = process.mean(torch.stack(list(figures.values()))).tolist()
        figures = dict(zip(figures, means, strict=True))
        self.check_finite(figures["loss"], "loss")

        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT)
        if not self.scaler.is_enabled():  # the scaler itself leaves out steps whose gradients overflow
            self.check_finite(float(norm), "gradient")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return figures

    def check_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise InputError(
                f"step {self.step + 1}: the {what} is {value}; {self.config.last_path} keeps what was last written: "
                "go on from there with --init-model-path and a lower learning_rate"
            )

    def log(self, total: Counter, seconds: float) -> None:
        """Print means since the last log, and how fast it goes."""
        count = total["steps"]
        means = "  ".join(f"{name} {total[name] / count:.3f}" for name in total if name not in ("steps", "stop"))
        images = count * self.config.batch_size * self.process.count / seconds
        rate = self.optimizer.param_groups[0]["lr"]
        scale = self.model.logit_scale.item()
        print(f"step {self.step}/{self.config.steps}  {means}  scale {scale:.2f}  lr {rate:.2e}  {images:.0f} images/s")

    def evaluate(self) -> None:
        """Print the held-out recall@K, and keep the weights if it is the best so far."""
        if self.process.first:
            recall = self.held_out.recall(self.towers, self.config.recall_k)
            print(f"step {self.step}/{self.config.steps}  held-out recall@{self.config.recall_k} = {recall:.3f}")
            if recall >= self.best:  # of equal ones the later, which was trained longer
                self.best = recall
                self.save(self.config.best_path)
        self.process.wait()

    def save_last(self) -> None:
        """Everything that `resume` needs."""
        states = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        self.save(self.config.last_path, **states, from_scratch=self.from_scratch)

    def save(self, path: str, **extra) -> None:
        if self.process.first:
            epoch = self.step // self.batches.per_epoch
            save_checkpoint(path, self.model, epoch=epoch, step=self.step, best=self.best, run=self.run, **extra)


def make_optimizer(model: nn.Module, config) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone, and a rate of its own for the logit scale."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    scale = model.logit_scale
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "peak": config.learning_rate},
        {"params": [p for p in trained if p.ndim <= 1 and p is not scale], "peak": config.learning_rate},
        {"params": [scale], "peak": config.logit_scale_rate},
    ]
    for group in groups[1:]:
        group["weight_decay"] = 0.0
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay)

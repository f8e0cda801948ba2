"""What both training scripts share: learning rate, seeds, interruption, and states from which to go on."""

import math
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from .checkpoint import load_checkpoint, load_weights
from .errors import InputError
from .loading import num_cores


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up to `peak`, then half a cosine down to zero after the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def seed_of(*numbers: int) -> int:
    """One seed from several numbers.

    All randomness of a step comes from (seed, step, process), none from the step before.  So a resumed run draws what
    an uninterrupted one would have drawn, without a random state in the checkpoint.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class StopRequest:
    """Set by Ctrl-C or SIGTERM; the second one interrupts at once."""

    def __init__(self):
        self.requested = False

    def __call__(self, signum, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("stopping after this step; once more to stop at once")


@contextmanager
def stop_request():
    """Turn Ctrl-C and SIGTERM into a request that the loop sees between two steps, when its state can be saved."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(worker: int) -> None:
    """For the processes that prepare batches: only the main one decides when to stop, and they end when it has ended.

    Ctrl-C and torchrun's SIGTERM go to the whole process group; without them the main one could not finish its step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batches_ahead(dataset: Dataset, steps: range, num_workers: int | None, device: torch.device) -> Generator:
    """The batches that `dataset` has for some steps, prepared ahead by other processes (None: as many as are good).

    To be closed, which ends the processes, whatever ends the loop.
    """
    if num_workers is None:
        num_workers = num_cores() if device.type == "cuda" else min(2, num_cores())
    loader = DataLoader(
        dataset,
        batch_size=None,  # an item is a batch already
        sampler=steps,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
    )
    coming = iter(loader)
    try:
        yield from coming
    except InputError as error:  # from another process it comes with its traceback
        raise InputError(str(error).strip().splitlines()[-1].removeprefix("models.errors.InputError: ")) from None
    finally:
        if num_workers:  # now, not when it is collected: an exception's frames may keep it, and at its end Python
            coming._shutdown_workers()  # would wait for ever for these processes, which take no signal


def resume(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict[str, Any]) -> dict[str, Any]:
    """Load a `last` checkpoint into model and optimizer; returns what else it holds, `step` for one.

    `run` are the settings that decide how training goes on.  InputError names those, and those of the model's sizes,
    that differ from the checkpoint's.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, so there is nothing to resume; start without --resume")
    state, config, extra = load_checkpoint(path)
    if not isinstance(extra.get("optimizer"), dict) or not isinstance(extra.get("run"), dict):
        raise InputError(f"{path}: holds weights but no training state; only a `last` checkpoint can be resumed")
    sizes = {name: getattr(model.config, name) for name in model.config.__dataclass_fields__}
    different = [
        f"{key} was {before.get(key)} and is {now.get(key)}"
        for before, now in ((config or {}, sizes), (extra["run"], run))
        for key in now
        if before.get(key) != now.get(key)
    ]
    if different:
        raise InputError(f"{path}: cannot be resumed with other settings: {'; '.join(different)}")
    load_weights(model, state, path)
    optimizer.load_state_dict(extra["optimizer"])
    return extra

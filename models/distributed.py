"""Training in several processes, on one machine or many, as torchrun starts them; one process without it."""

import io
import os
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .loading import resolve_device


class Process(NamedTuple):
    """This process's place among all."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that prints, evaluates and saves."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over all processes."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values / self.count

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over the processes; on GPUs batch-norm sees the batch of all of them."""
        module.to(self.device)
        if self.count == 1:
            return module
        if self.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
            return nn.parallel.DistributedDataParallel(module, device_ids=[self.device.index])
        return nn.parallel.DistributedDataParallel(module)

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def process_group(device: str):
    """Join the processes that torchrun started, each with a GPU of its own if there are any; yields a `Process`."""
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None:
        yield Process(0, 1, resolve_device(device))
        return
    resolved = resolve_device(device)
    if resolved.type == "cuda":
        resolved = resolve_device(f"cuda:{local_rank}")
        torch.cuda.set_device(resolved)
    dist.init_process_group("nccl" if resolved.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), resolved)
    finally:
        dist.destroy_process_group()


def only_first_prints():
    """A context in which every process but the first prints nothing; errors still show."""
    return nullcontext() if os.environ.get("RANK", "0") == "0" else redirect_stdout(io.StringIO())

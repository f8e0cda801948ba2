"""The one encoding loop: image files and texts to vectors, on CPU and CUDA, for every script."""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InputError
from .images import ImageError, read_image
from .loading import TwoTower, num_cores
from .script import progress

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class ImageVectors(NamedTuple):
    """The images that could be read, their vectors (N, D) float32 on the CPU, and (path, reason) of the others."""

    paths: list[Path]
    vectors: Tensor
    failed: list[tuple[Path, str]]


@torch.inference_mode()
def encode_images(
    towers: TwoTower,
    paths: Sequence[Path],
    batch_size: int | None = None,
    num_workers: int | None = None,
    precision: str = "fp32",
) -> ImageVectors:
    """Decode and encode files in `num_workers` threads (default: one a core), in the order of `paths`.

    Each thread takes a micro-batch, decodes it and encodes it with one torch thread, so that no core ever waits for
    another: decoding and the small convolutions of EfficientNet hardly gain from threads within an operation.  On a
    GPU the threads share it, and one thread's decoding hides behind another's encoding.  A file that is no image is
    listed in `failed` and the others go on.  `batch_size` is 2 on a CPU and 64 on a GPU unless set.
    """
    device = next(towers.model.parameters()).device
    workers = num_workers or num_cores()
    batch_size = batch_size or (2 if device.type == "cpu" else 64)
    tower = towers.model.image_tower()
    paths = list(paths)
    chunks = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]

    turns = threading.Semaphore(workers if device.type == "cpu" else 2)  # batches in the GPU's memory at once

    @torch.inference_mode()
    def encode(chunk: list[Path]) -> tuple[list[Path], Tensor | None, list[tuple[Path, str]]]:
        pixels, done, failed = [], [], []
        for path in chunk:
            try:
                pixels.append(towers.preprocess(read_image(path)))
                done.append(path)
            except ImageError as error:
                failed.append((path, str(error)))
        if not done:
            return done, None, failed
        with turns, computing_in(precision, device):
            vectors = tower(torch.stack(pixels).to(device)).float().cpu()  # (B, D)
        check_finite(vectors, done[0], precision)
        return done, vectors, failed

    done, vectors, failed = [], [], []
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(1))
    try:
        with progress(total=len(paths), desc="images", unit="image") as bar:
            for chunk, (chunk_done, chunk_vectors, chunk_failed) in zip(chunks, pool.map(encode, chunks), strict=True):
                done += chunk_done
                failed += chunk_failed
                if chunk_vectors is not None:
                    vectors.append(chunk_vectors)
                bar.update(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what the workers set is the default of threads that set none
    return ImageVectors(done, torch.cat(vectors) if vectors else torch.empty(0, 0), failed)


@torch.inference_mode()
def encode_texts(
    towers: TwoTower, texts: Iterable[str], batch_size: int = 64, precision: str = "fp32"
) -> dict[str, Tensor]:
    """Each distinct text and its vector (D,) float32 on the CPU, batched by length so that little is padded."""
    device = next(towers.model.parameters()).device
    distinct = sorted(dict.fromkeys(texts), key=len)
    vectors = {}
    for start in progress(range(0, len(distinct), batch_size), desc="texts", unit="batch"):
        batch = distinct[start : start + batch_size]
        tokens = {key: value.to(device) for key, value in towers.tokenize(batch).items()}
        with computing_in(precision, device):
            encoded = towers.model.encode_text(**tokens).float().cpu()  # (B, D)
        check_finite(encoded, batch[0], precision)
        vectors.update(zip(batch, encoded, strict=True))
    return vectors


def check_finite(vectors: Tensor, first: Path | str, precision: str) -> None:
    """InputError where the network overflowed: NaN would go through all that follows and look like a result."""
    if not vectors.isfinite().all():
        raise InputError(
            f"the model's vectors are no finite numbers, from {first} on; its weights are damaged"
            + (f", or {precision} is too narrow for them: try fp32" if PRECISIONS[precision] else "")
        )


def computing_in(precision: str, device: torch.device):
    """The autocast of a precision; `fp32` is exact, so it also turns off TF32, cuDNN's default for convolutions."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: must be one of {', '.join(PRECISIONS)}")
    if PRECISIONS[precision] is None:
        torch.backends.cudnn.allow_tf32 = False
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])

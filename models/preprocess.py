"""Image preprocessing of the release, bit for bit: OpenCV's uint8 INTER_LINEAR resize, then ImageNet normalisation."""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Preprocess:
    """RGB image -> (3, size, size) float32, without keeping the aspect ratio."""

    def __init__(self, size: int = 224):
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        image = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
        pixels = resize_linear(np.asarray(image), self.size, self.size)
        return normalise(torch.from_numpy(pixels))


def normalise(pixels: Tensor) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32: (x / 255 - mean) / std."""
    x = pixels.permute(2, 0, 1).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def resize_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, C) uint8 -> (height, width, C) uint8, equal to cv2.resize(…, interpolation=cv2.INTER_LINEAR).

    OpenCV's fixed-point arithmetic: 11-bit weights, no antialiasing.  Only the two source rows and columns around each
    target pixel are read.
    """
    left, right, weights_x = taps(image.shape[1], width)
    top, bottom, weights_y = taps(image.shape[0], height)

    rows = image.take(np.concatenate((top, bottom)), axis=0)  # (2·height, W, C)
    w0, w1 = (weight[:, None] for weight in weights_x)  # (width, 1)
    sums = rows.take(left, axis=1) * w0 + rows.take(right, axis=1) * w1  # (2·height, width, C) int32
    sums >>= 4
    b0, b1 = (weight[:, None, None] for weight in weights_y)  # (height, 1, 1)
    blended = ((sums[:height] * b0) >> 16) + ((sums[height:] * b1) >> 16)
    return ((blended + 2) >> 2).astype(np.uint8)


@lru_cache(maxsize=256)
def taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """For each target index the two source indices around it and their int32 weights, which sum to 2048.

    At the ends both are the same pixel, so the fraction no longer matters in x; in y, where OpenCV truncates each
    product before it adds them, it does, and OpenCV keeps it.
    """
    coordinate = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(coordinate).astype(np.int64)
    fraction = coordinate - first.astype(np.float32)
    weights = tuple(np.rint(weight * np.float32(2048)).astype(np.int32) for weight in (1 - fraction, fraction))
    return first.clip(0, source - 1), (first + 1).clip(0, source - 1), weights

"""Random changes of a training image that leave what it shows; the inference preprocessing comes after them.

They draw from torch's global generator, which the training data seed for each step.
"""

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F


def augment_recall(image: Image.Image) -> Image.Image:
    """A crop of at least 84 % of each side, mirrored half of the time."""
    (width, height), shares = image.size, torch.empty(2).uniform_(0.84, 1).tolist()
    crop_width, crop_height = (max(1, round(side * share)) for side, share in zip(image.size, shares, strict=True))
    left = int(torch.randint(width - crop_width + 1, ()))
    top = int(torch.randint(height - crop_height + 1, ()))
    image = image.crop((left, top, left + crop_width, top + crop_height))
    return F.hflip(image) if torch.rand(()) < 0.5 else image


def augment_ranking(image: Image.Image) -> Image.Image:
    """The published one: turned by up to 5 degrees, mirrored with probability 0.3."""
    angle = float(torch.empty(()).uniform_(-5, 5))
    image = F.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
    return F.hflip(image) if torch.rand(()) < 0.3 else image


def leave(image: Image.Image) -> Image.Image:
    """No augmentation."""
    return image

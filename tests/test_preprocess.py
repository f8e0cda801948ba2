"""Image tensors equal to OpenCV's bit for bit, whatever the shape or colour mode."""

import cv2
import numpy as np
import pytest
import torch
from conftest import photograph
from PIL import Image

from benchmarks import released_procedure
from models import preprocess
from models.images import ImageError, read_image
from models.preprocess import Preprocess, resize_linear

SHAPES = [(1, 1), (1, 7), (3, 2), (223, 225), (224, 224), (448, 448), (449, 447), (1000, 31), (37, 1200), (768, 1024)]


@pytest.mark.parametrize("target", [224, 64, 300])
@pytest.mark.parametrize("shape", SHAPES)
def test_resize_equals_opencv(shape, target):
    image = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = cv2.resize(image, (target, target), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_linear(image, target, target), expected)


def test_resize_equals_opencv_on_many_random_shapes():
    random = np.random.default_rng(0)
    for _ in range(150):
        image = random.integers(0, 256, (*random.integers(1, 700, 2), 3), dtype=np.uint8)
        expected = cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize_linear(image, 224, 224), expected), image.shape


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_tensor_of_every_colour_mode(tmp_path, mode):
    picture = photograph(1, 300, 200)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    if mode == "I;16":
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 200).save(path)
    else:
        picture.convert(mode).save(path)
    ours = Preprocess(224)(read_image(path))
    assert ours.shape == (3, 224, 224) and ours.dtype == torch.float32
    assert torch.equal(ours, released_procedure.preprocess(path))


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    photograph(2).save(tmp_path / "turned.jpg", exif=exif)
    ours = Preprocess(224)(read_image(tmp_path / "turned.jpg"))
    assert torch.equal(ours, released_procedure.preprocess(tmp_path / "turned.jpg"))


def test_the_comparison_notices_rounded_weights(monkeypatch):
    """One level in one pixel would be seen: weights of 10 bits instead of 11 do not pass."""
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    expected = cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR)
    exact = preprocess.taps

    def coarse(source, target):
        first, second, weights = exact(source, target)
        return first, second, tuple(weight & ~1 for weight in weights)

    monkeypatch.setattr(preprocess, "taps", coarse)
    assert not np.array_equal(resize_linear(image, 224, 224), expected)


def test_broken_images_are_refused_with_a_reason(tmp_path):
    whole = tmp_path / "whole.jpg"
    photograph(3, 400, 300).save(whole)
    broken = {
        "no image": b"<html>not an image</html>",
        "truncated": whole.read_bytes()[:-2000],
        "no image,": b"",
        "pixels": bomb(),
    }
    for reason, content in broken.items():
        path = tmp_path / "broken.jpg"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=reason):
            read_image(path)
        with pytest.raises(ImageError, match=reason):
            read_image(content)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 20,000 × 20,000 pixels."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)

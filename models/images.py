"""Image files: which of a folder's files are images, and one way to decode them."""

import io
from pathlib import Path

from PIL import Image

from .errors import InputError

# What shops serve.  A closed list, because some of Pillow's other readers start programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
MAX_PIXELS = 100_000_000  # the released tables' largest image has 45 million; more is taken for a decompression bomb


class ImageError(ValueError):
    """A file that is no image, is cut off, or is too large to decode; the message says which."""


def read_image(source: str | Path | bytes, least: int | None = None) -> Image.Image:
    """Decode a file or its bytes completely, into RGB, without turning it by its EXIF tag.  Raises ImageError.

    Where `least` pixels a side will do, a JPEG is decoded at a fraction of its size, which is several times as fast.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width}×{image.height} pixels, more than {MAX_PIXELS:,}")
            if least:
                image.draft("RGB", (least, least))
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("more pixels than Pillow will decode") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError("no image, or of an unknown type") from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except Exception as error:  # Pillow's decoders raise almost anything on malformed data
        raise ImageError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def list_images(folder: str | Path) -> list[Path]:
    """The image files of a folder by name, so that every run sees one order.  InputError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such image folder; run download_images.py, or set image_dir")
    images = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not images:
        raise InputError(f"{folder}: holds no image ({', '.join(SUFFIXES)}); run download_images.py, or set image_dir")
    for path in images:
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{folder}: the file name {path.name!r} is not UTF-8; rename it") from error
    return sorted(images, key=lambda path: path.name)


def poi_of_image(name: str) -> str:
    """The POI an image of stage 1 belongs to: what stands before the first `_` of its file name."""
    poi_id, separator, _ = name.partition("_")
    if not separator:
        raise InputError(f"{name}: image names start with their POI and `_`, as in 10060_1.jpg")
    return poi_id

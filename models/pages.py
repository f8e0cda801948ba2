"""HTML pages from `templates/`, and the thumbnails beside them."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from .files import check_output, replacing
from .images import read_image
from .script import progress

THUMBNAIL = 320  # pixels along the longer side


class Thumbnail(NamedTuple):
    """Addresses relative to the page, so that it can be moved together with its folder and the images."""

    small: str
    original: str


def write_page(path: str | Path, template: str, **content) -> None:
    """Fill a template of `templates/`; whatever is in `content` is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with replacing(path) as partial:
        environment.get_template(template).stream(content).dump(str(partial), encoding="utf-8")


def write_thumbnails(
    page: str | Path, images: Iterable[str | Path], size: int = THUMBNAIL
) -> dict[str | Path, Thumbnail | None]:
    """A small JPEG of each image in the folder `{page}_thumbnails`; None for an image that cannot be read.

    One that is there already is kept, unless its image is newer.
    """
    page, images = check_output(page), list(dict.fromkeys(images))
    folder = page.with_name(f"{page.stem}_thumbnails")
    folder.mkdir(exist_ok=True)

    def write(image: str | Path) -> Thumbnail | None:
        source = os.path.abspath(image)
        # Named by the whole path, since two folders may each have a 1.jpg.
        small = folder / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:20]}_{size}.jpg"
        try:
            if not small.exists() or small.stat().st_mtime < os.stat(source).st_mtime:
                picture = read_image(Path(source), least=size)
                picture.thumbnail((size, size))
                with replacing(small) as partial:
                    picture.save(partial, "JPEG", quality=80)
        except (ValueError, OSError):  # an ImageError, a path that cannot be one, or gone though its thumbnail is there
            return None
        original = os.path.relpath(source, os.path.abspath(page.parent))
        return Thumbnail(f"{quote(folder.name)}/{small.name}", quote(Path(original).as_posix()))

    with ThreadPoolExecutor() as pool:
        bar = progress(pool.map(write, images), total=len(images), desc="thumbnails", unit="image")
        return dict(zip(images, bar, strict=True))

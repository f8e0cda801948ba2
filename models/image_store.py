"""A folder of downloaded images that never holds a broken one: complete, decodable, and JPEG or PNG."""

import os
import shutil
import threading
from pathlib import Path

from .images import ImageError, read_image

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
JPEG_END, PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"

# A decoded image can be a thousand times its file; as many at once as there are cores is all that is of use.
DECODING = threading.BoundedSemaphore(os.cpu_count() or 1)


class ImageStore:
    """Images by name.  `typed` names are complete with their ending; others get `.jpg` or `.png` by the content."""

    def __init__(self, folder: str | Path, typed: bool):
        self.folder, self.endings = Path(folder), ("",) if typed else (".jpg", ".png")
        self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        """Whether a whole image of that name is there; a broken one, which another program left, is put aside."""
        self.partial(name).unlink(missing_ok=True)  # of a run that was killed
        for path in (self.folder / (name + ending) for ending in self.endings):
            if path.is_file():
                if is_whole(path):
                    return True
                path.rename(path.with_name(f"{path.name}.broken"))
        return False

    def partial(self, name: str) -> Path:
        """Where a download of `name` is written; readers of the folder skip hidden files."""
        return self.folder / f".{name}.partial"

    def accept(self, partial: Path, names: list[str]) -> bool:
        """Move a finished download to its names, as PNG unless it is JPEG or PNG.  True if it was converted.

        ImageError, and nothing moved, if it cannot be decoded to its last row.
        """
        with DECODING:
            image = read_image(partial)
            start = start_of(partial)
            converted = not start.startswith((JPEG, PNG))
            if converted:
                image.save(partial, format="PNG")
        ending = self.endings[0 if start.startswith(JPEG) else -1]
        for name in names[1:]:
            shutil.copyfile(partial, self.partial(name))
            os.replace(self.partial(name), self.folder / (name + ending))
        os.replace(partial, self.folder / (names[0] + ending))
        return converted


def start_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(PNG))


def is_whole(path: Path) -> bool:
    """Whether an image file is complete: by its first and last bytes where these tell, else by decoding it.

    Looking at the ends costs no time for thousands of files.  Damage in the middle is not seen.
    """
    start = start_of(path)
    with open(path, "rb") as file:
        file.seek(-min(path.stat().st_size, len(PNG_END)), os.SEEK_END)
        end = file.read()
    if (start.startswith(JPEG) and end.endswith(JPEG_END)) or (start == PNG and end == PNG_END):
        return True
    try:
        read_image(path)
    except ImageError:
        return False
    return True

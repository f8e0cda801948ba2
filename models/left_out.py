"""What a run leaves out and why: counted and shown on the terminal, and all of it in a CSV beside the result."""

import csv
from pathlib import Path

from .files import replacing
from .script import listing


class LeftOut:
    """The left-out things of one run, for `{result}_left_out.csv` with the header `reason,what`."""

    def __init__(self, output_csv: str | Path):
        path = Path(output_csv)
        self.path, self.rows = path.with_name(f"{path.stem}_left_out.csv"), []

    def list(self, reason: str, things: list[str]) -> None:
        """Print how many there are and the first of them; keep them all."""
        listing(reason, things)
        self.rows += [(reason, thing) for thing in things]

    def write(self) -> None:
        """Write the CSV; where nothing was left out, take away that of a run before."""
        if not self.rows:
            self.path.unlink(missing_ok=True)
            return
        with replacing(self.path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("reason", "what"), *self.rows])
        print(f"left out: {len(self.rows):,} lines in {self.path}")

"""How much faster many downloads at once are than one after another, from a loopback server with a delay.

    python -m benchmarks.download_speed

Both sides fetch the same small pictures, decode them and write them to a temporary folder.  The one after another
keeps its connection open and checks nothing else.
"""

CONFIG = {
    "images": 1000,  # how many
    "latency": 0.05,  # seconds until the server answers
    "rounds": 1,  # of both in turn; medians count
}

import contextlib
import csv
import io
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import requests

import download_images
from models.images import read_image
from models.script import run_script
from tests.loopback_server import LoopbackServer


def main(argv=None) -> int:
    return run_script(__name__, argv, compare)


def compare(config) -> None:
    os.environ["no_proxy"] = "127.0.0.1"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(config.latency, theirs), daemon=True)  # its own process: own GIL
    server.start()
    address = ours.recv()
    urls = [f"{address}{number}" for number in range(config.images)]
    seconds = {"one after another": [], "download_images.py": []}
    for _ in range(config.rounds):
        for name, run in (("one after another", one_after_another), ("download_images.py", many_at_once)):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                run(urls, Path(folder))
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:>20}: {median:6.2f} s, {1000 * median / config.images:5.1f} ms an image")
    print(f"{'ratio':>20}: {medians['one after another'] / medians['download_images.py']:6.1f}")


def serve(latency: float, connection) -> None:
    with LoopbackServer(latency) as server:
        connection.send(server.url("jpg/"))
        connection.poll(None)  # until the other side ends


def one_after_another(urls: list[str], folder: Path) -> None:
    session = requests.Session()
    for number, url in enumerate(urls):
        body = session.get(url, timeout=10).content
        read_image(body)
        (folder / f"{number}_1.jpg").write_bytes(body)


def many_at_once(urls: list[str], folder: Path) -> None:
    table = folder / "table.csv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([number, "景点", url, 1, 40, 30, ""] for number, url in enumerate(urls))
    argv = f"--dataset-csv {table} --image-dir {folder}/images --failures-csv {folder}/failures.csv".split()
    with contextlib.redirect_stdout(io.StringIO()):
        assert download_images.main(argv) == 0
    assert len(os.listdir(folder / "images")) == len(urls)


if __name__ == "__main__":
    sys.exit(main())

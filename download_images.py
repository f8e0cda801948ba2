"""Download the images of a table, many at once; run it again to fetch what is still missing.

    python download_images.py --dataset recall     # 5,000 images of 500 POIs, for stage 1
    python download_images.py --dataset ranking    # 1,949 images of 1,000 pairs, for stage 2

Reads the table.  Writes JPEG and PNG as they come, anything else as PNG, to `{poi_id}_{rank_number}.jpg|png` (recall)
or under the last part of the address's path (ranking).  An image appears in the folder only after it was decoded to its
last row.  What could not be had goes to a CSV `file,url,reason`.
"""

CONFIG = {
    "dataset": "recall",  # recall: the table of POIs; ranking: the table of pairs
    "dataset_csv": None,  # the table; None: the released one of the dataset, under data/
    "image_dir": None,  # where the images go; None: where the other scripts look for those of the dataset
    "failures_csv": None,  # what could not be had and why; None: data/download_failures_{dataset}.csv
    "num_workers": 32,  # downloads at once
    "timeout": 120.0,  # seconds for an image in all, further tries and waits included
    "connect_timeout": 10.0,  # seconds to reach a server
    "read_timeout": 20.0,  # seconds without a byte until a try has failed
    "retries": 3,  # further tries after no connection, no answer, a broken body, status 429 or 5xx
    "max_megabytes": 64,  # larger files are refused
}

import csv
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from models.download import Downloader, DownloadError
from models.errors import InputError
from models.files import check_output, replacing
from models.image_store import ImageStore
from models.images import ImageError
from models.script import ROOT, listing, progress, run_script
from models.tables import read_pairs, read_recall_table

PLACES = {  # table and images of each dataset
    "recall": ("data/temp_recall_biztype0_fc5_imagern_500.csv", "temp_recall_biztype0_fc5_imagern_500"),
    "ranking": ("data/dwd_mml_train_dataset_1007_urls_val_with_poi_tuomin.csv", "data/ranking_images"),
}
HAD = ("downloaded", "downloaded, converted to png", "already there")
NO_HOST = "no such host"
UNKNOWN_HOST = 5  # tries, after which a host is given up for this run
LONGEST_NAME = 240  # bytes; file systems allow 255, and the name of an unfinished download is longer


class Failure(NamedTuple):
    file: str  # recall: without its ending, which only the content tells
    url: str
    reason: str


class Outcome(NamedTuple):
    kind: str  # one of HAD, or why not in a few words
    detail: str = ""


def main(argv=None) -> int:
    types = dict.fromkeys(("dataset_csv", "image_dir", "failures_csv"), str)
    return run_script(__name__, argv, download_images, types, {"dataset": list(PLACES)}, resolve)


def resolve(config) -> None:
    """Put the dataset's own places where none were given."""
    table, folder = PLACES[config.dataset]
    config.dataset_csv = config.dataset_csv or str(ROOT / table)
    config.image_dir = config.image_dir or str(ROOT / folder)
    config.failures_csv = config.failures_csv or str(ROOT / "data" / f"download_failures_{config.dataset}.csv")


def download_images(config) -> None:
    if config.num_workers == 0:
        raise InputError("num_workers is 0; it must be more than 0")
    check_output(config.failures_csv)
    wanted, failures = unique_names(read_addresses(config.dataset, config.dataset_csv))
    store = ImageStore(config.image_dir, typed=config.dataset == "ranking")
    missing = {}  # address -> names; some images of the recall table are listed under two POIs
    for name, url in wanted.items():
        if not store.has(name):
            missing.setdefault(url, []).append(name)
    there = len(wanted) - sum(map(len, missing.values()))
    print(f"{len(wanted)} images in the table, {there} already there, {len(missing)} addresses to fetch", flush=True)

    total = len(wanted) + len(failures)
    outcomes = Counter({"already there": there}) + Counter(failure.reason.partition(":")[0] for failure in failures)
    try:
        with progress(total=len(wanted), initial=there, desc="images", unit="image") as bar:
            for url, outcome in fetch_all(config, store, missing):
                outcomes[outcome.kind] += len(missing[url])
                if outcome.kind not in HAD:
                    failures += [Failure(name, url, outcome.detail) for name in missing[url]]
                bar.set_postfix(failed=len(failures), refresh=False)
                bar.update(len(missing[url]))
    finally:  # after Ctrl-C too
        report(config, outcomes, failures, total)
    if not any(outcomes[kind] for kind in HAD):
        raise InputError(f"not one image could be had; {config.failures_csv} says why; is there a network?")


def read_addresses(dataset: str, table: str) -> list[tuple[str, str]]:
    """(name, address) of every image of a table, in its order; names of the recall table without an ending."""
    if dataset == "recall":
        return [(f"{row.poi_id}_{row.rank_number}", row.image_url) for row in read_recall_table(table)]
    pairs, left_out = read_pairs(table)
    listing(f"rows of {table} left out", left_out)
    return [image for pair in pairs for image in ((pair.image_a, pair.oss_url), (pair.image_b, pair.oss_url2))]


def unique_names(images: list[tuple[str, str]]) -> tuple[dict[str, str], list[Failure]]:
    """name -> address, and the images that cannot be stored under their name."""
    wanted, refused = {}, set()
    for name, url in images:
        if len(name.encode()) > LONGEST_NAME:
            refused.add(Failure(name, url, f"name too long: more than {LONGEST_NAME} bytes"))
        elif wanted.setdefault(name, url) != url:
            refused.add(Failure(name, url, f"name already taken: by {wanted[name]}"))
    return wanted, list(refused)


def fetch_all(config, store: ImageStore, missing: dict[str, list[str]]) -> Iterator[tuple[str, Outcome]]:
    """Fetch every address of `missing` into the store with `num_workers` threads; (address, outcome) as they end.

    The threads are daemons: at Ctrl-C nobody waits for a server.  They share nothing but the two queues, and an image
    moves to its place in one step, so they can be left at any moment.
    """
    todo, done, stopped = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
    unknown = Counter()  # how often there was no such host; a table has few, and each try takes its time
    for url in missing:
        todo.put(url)

    def work() -> None:
        limits = config.timeout, config.connect_timeout, config.read_timeout, config.retries
        downloader = Downloader(*limits, max_bytes=config.max_megabytes * 10**6)
        while not stopped.is_set():
            try:
                url = todo.get_nowait()
            except queue.Empty:
                return
            try:
                host = urlsplit(url).netloc
                if unknown[host] < UNKNOWN_HOST:
                    outcome = fetch(downloader, store, url, missing[url])
                    unknown[host] += outcome.kind == NO_HOST
                else:
                    outcome = Outcome(NO_HOST, f"{NO_HOST}: {host}, as {UNKNOWN_HOST} times before")
                done.put((url, outcome))
            except BaseException as error:  # a full disk, say: the main thread raises it
                done.put((url, error))
                return

    for _ in range(min(config.num_workers, len(missing))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in missing:
            url, outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield url, outcome
    finally:
        stopped.set()


def fetch(downloader: Downloader, store: ImageStore, url: str, names: list[str]) -> Outcome:
    """Fetch one image and store it under its names."""
    partial = store.partial(names[0])
    try:
        downloader.save(url, partial)
        return Outcome("downloaded, converted to png" if store.accept(partial, names) else "downloaded")
    except DownloadError as error:
        return Outcome(error.reason, str(error))
    except ImageError as error:
        return Outcome("not a usable image", f"not a usable image: {error}")
    finally:
        partial.unlink(missing_ok=True)


def report(config, outcomes: Counter, failures: list[Failure], total: int) -> None:
    """Write the failures and print how often each outcome came."""
    with replacing(config.failures_csv) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Failure._fields)
        writer.writerows(sorted(failures))
    had = sum(outcomes[kind] for kind in HAD)
    outcomes["not tried"] = total - had - len(failures)
    for kind, count in outcomes.most_common():
        if count:
            print(f"{count:7,} {kind}")
    if failures:
        print(f"{len(failures):,} failed, listed in {config.failures_csv}")
    print(f"{had:,} of {total:,} images are in {config.image_dir}")


if __name__ == "__main__":
    sys.exit(main())

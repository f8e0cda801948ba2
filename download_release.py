"""Download what the authors released, and BERT's vocabulary, to where the other scripts look for it.

    python download_release.py                            # all that reproducing the paper takes
    python download_release.py --what recall tables bert  # stage 1 only

Writes weights and POI vectors to the project's folder, tables to data/, BERT's vocabulary to bert-base-chinese/ and, if
asked for, the weights of the Taiyi baseline to taiyi/.  Run it again after a broken connection: it goes on where it
stopped.  Every file is checked before it counts, the weights by loading them without running code from them.
"""

CONFIG = {
    "what": ["recall", "ranking", "tables", "poi", "bert"],  # what to fetch; also: taiyi
    "output_dir": ".",  # the project's folder, where the other scripts look
    "weights_url": "https://github.com/youyuge34/AVAS/releases/download",  # the three weight files
    "tables_url": "https://raw.githubusercontent.com/youyuge34/AutoImageSelection/main",  # tables and POI vectors
    "hub_url": "https://huggingface.co",  # or a mirror of the Hugging Face hub
    "connect_timeout": 10.0,  # seconds to reach a server
    "read_timeout": 30.0,  # seconds without a byte until a try has failed
    "retries": 3,  # further tries without a new byte
}

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from models.download import Downloader, DownloadError
from models.errors import InputError
from models.resume import save_resumable, version_path
from models.script import progress, run_script
from models.tables import read_pairs, read_recall_table, text_lines

TABLES = (
    "temp_recall_biztype0_fc5_imagern_500.csv",
    "dwd_mml_train_dataset_1007_urls_train_with_poi_tuomin.csv",
    "dwd_mml_train_dataset_1007_urls_val_with_poi_tuomin.csv",
)
POI_FILES = (
    "temp_dataset_item_pois_relation_1129_poi_2_pic_num.npy",
    "temp_dataset_item_pois_relation_0110_imgs_avg10_vector.npy",
    "temp_dataset_item_pois_relation_1129_imgs_avg_10vector_wo_norm.npy",
    "temp_dataset_item_pois_relation_0110_poi_name_vector.npy",
)
WORDS = 21128  # in bert-base-chinese's vocabulary


class File(NamedTuple):
    """A released file: the word that asks for it, its place in the project, its address, and what it must hold."""

    what: str
    path: str
    url: str
    check: Callable[[Path, str], str]  # (path, url) -> what is in it, in a few words; InputError if it is no use


def main(argv=None) -> int:
    what = ["recall", "ranking", "tables", "poi", "bert", "taiyi"]
    return run_script(__name__, argv, download_release, choices={"what": what})


def download_release(config) -> None:
    downloader = Downloader(
        connect_timeout=config.connect_timeout, read_timeout=config.read_timeout, retries=config.retries
    )
    files = [file for file in released_files(config) if file.what in config.what]
    failed = []
    for file in files:
        target = Path(config.output_dir) / file.path
        try:
            print(f"{file.path}: {obtain(downloader, file, target)}", flush=True)
        except (DownloadError, InputError) as error:
            failed.append(file.path)
            print(f"{file.path}: FAILED: {error}\n  by hand: save {file.url}\n       as {target}", flush=True)
    print(f"{len(files) - len(failed)} of {len(files)} files are in {config.output_dir}")
    if failed:
        raise InputError(f"{len(failed)} files could not be had ({', '.join(failed)}); run it again, or see above")


def released_files(config) -> list[File]:
    from models.checkpoint import RANKING_URL, RECALL_URL, RELEASE

    weights = config.weights_url.rstrip("/")
    tables = config.tables_url.rstrip("/")
    hub = f"{config.hub_url.rstrip('/')}/bert-base-chinese/resolve/main"
    recall, ranking = (weights + url.removeprefix(RELEASE) for url in (RECALL_URL, RANKING_URL))
    return [
        File("recall", "align_model.pth", recall, check_weights),
        File("ranking", Path(ranking).name, ranking, check_weights),
        *(File("tables", f"data/{name}", f"{tables}/data/{name}", check_table) for name in TABLES),
        *(File("poi", name, f"{tables}/{name}", check_pois) for name in POI_FILES),
        File("bert", "bert-base-chinese/config.json", f"{hub}/config.json", check_bert_config),
        File("bert", "bert-base-chinese/vocab.txt", f"{hub}/vocab.txt", check_vocabulary),
        File("taiyi", "taiyi/pytorch_model.bin", f"{weights}/v0.3/pytorch_model.bin", check_weights),
    ]


def obtain(downloader: Downloader, file: File, target: Path) -> str:
    """Have a usable `file` at `target`, and say how it came there.  An existing file is checked, never replaced."""
    if target.exists():
        return f"there already, {file.check(target, file.url)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with progress(desc=target.name, unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def show(have: int, total: int | None) -> None:
            bar.total = total
            bar.update(have - bar.n)

        try:
            save_resumable(downloader, file.url, partial, show)
        except DownloadError:
            if not any(target.parent.iterdir()):
                target.parent.rmdir()  # an empty one would be taken for the real one
            raise
    version_path(partial).unlink()
    try:
        contents = file.check(partial, file.url)
    except InputError as error:
        partial.unlink()
        reason = str(error).replace(str(partial), file.path).removeprefix(f"{file.path}: ")
        raise InputError(f"refused and removed: {reason}") from error
    os.replace(partial, target)
    return f"downloaded, {contents}"


def check_weights(path: Path, url: str) -> str:
    from models.checkpoint import load_checkpoint

    return f"{len(load_checkpoint(path, url).state)} tensors"


def check_table(path: Path, url: str) -> str:
    if "recall" in path.name:
        return f"{len(read_recall_table(path)):,} images"
    pairs, left_out = read_pairs(path)
    return f"{len(pairs):,} pairs, {len(left_out)} rows that cannot be used"


def check_pois(path: Path, url: str) -> str:
    from models.safe_pickle import load_pickled_npy

    pois = load_pickled_npy(path)
    if not isinstance(pois, dict):
        raise InputError(f"{path}: holds a {type(pois).__name__}, not a dict of POIs")
    return f"{len(pois):,} POIs"


def check_bert_config(path: Path, url: str) -> str:
    try:
        return f"{json.loads(path.read_bytes())['vocab_size']:,} words"
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no BERT config") from error


def check_vocabulary(path: Path, url: str) -> str:
    words = sum(1 for _ in text_lines(path))
    if words != WORDS:
        raise InputError(f"{path}: {words:,} lines instead of the {WORDS:,} of bert-base-chinese's vocabulary")
    return f"{words:,} words"


if __name__ == "__main__":
    sys.exit(main())

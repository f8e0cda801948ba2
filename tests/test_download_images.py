"""download_images.py against a server that misbehaves: what can be had is there, whole; the rest is listed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from loopback_server import LoopbackServer, picture
from PIL import Image, ImageChops

import download_images
from models.image_store import ImageStore
from models.images import read_image
from models.tables import SEPARATOR

ROOT = Path(download_images.__file__).parent

GOOD = {  # behaviour -> (ending, whether the bytes stay as they were)
    "jpg": (".jpg", True),
    "png": (".png", True),
    "gif": (".png", False),
    "webp": (".png", False),
    "bmp": (".png", False),
    "redirect": (".jpg", True),
    "flaky": (".jpg", True),
    "busy": (".jpg", True),
    "busy_for_nonsense": (".jpg", True),
    "breaks_once": (".jpg", True),
    "slow": (".jpg", True),
}
BAD = {  # behaviour -> how the reason starts
    "404": "HTTP 404",
    "403": "HTTP 403",
    "410": "HTTP 410",
    "500": "HTTP 500",
    "busy_for_hours": "HTTP 429: asks to wait 7200 s",
    "hang": "timed out",
    "drip": "timed out: not done after 6 s",
    "drip_headers": "timed out: not done after 6 s",
    "breaks": "broke off",
    "closes": "broke off",
    "no_http": "broke off",
    "breaks_silently": "not a usable image",
    "cut": "not a usable image",
    "html": "not a usable image: no image, or of an unknown type",
    "empty": "not a usable image",
    "pixel_bomb": "not a usable image: more pixels",
    "zipped_bomb": "too large",
    "loop": "too many redirects",
    "to_file": "bad address",
    "to_nonsense": "bad address",
    "endless": "too large: more than 1 MB",
    "endless_redirect": "too large",
    "endless_error": "too large",
    "huge": "too large",
}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with LoopbackServer() as server:
        yield server


def recall_table(folder: Path, urls: dict[str, str]) -> Path:
    """A table with an image for each name `{poi_id}_{rank_number}`."""
    table = folder / "table.csv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        for name, url in urls.items():
            poi_id, rank = name.split("_")
            csv.writer(file).writerow([poi_id, f"景点{poi_id}", url, rank, 40, 30, ""])
    return table


def ranking_table(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    table = folder / "pairs.csv"
    rows = [("val_1", "", "", "1", "2", "一日游", "跟团游", *pair, "") for pair in pairs]
    table.write_text("".join(SEPARATOR.join(row) + "\n" for row in rows), encoding="utf-8")
    return table


def flags(folder: Path, table: Path, *more: str) -> list[str]:
    places = f"--dataset-csv {table} --image-dir {folder}/images --failures-csv {folder}/failures.csv"
    limits = "--timeout 4 --connect-timeout 2 --read-timeout 0.5 --retries 2 --max-megabytes 1"
    return [*places.split(), *limits.split(), *more]


def download(folder: Path, table: Path, *more: str) -> int:
    return download_images.main(flags(folder, table, *more))


def failures(folder: Path) -> dict[str, tuple[str, str]]:
    with open(folder / "failures.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["file"], row["url"]) for row in rows}) == len(rows)
    return {row["file"]: (row["url"], row["reason"]) for row in rows}


def image_names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "images").iterdir()}


def test_all_that_can_be_had_of_a_thousand_images(server, tmp_path, capsys):
    slow_first = sorted(list(BAD) * 8, key=lambda kind: kind not in ("hang", "drip", "drip_headers"))
    kinds = {f"{number}_1": kind for number, kind in enumerate(slow_first)}
    kinds |= {f"{number}_1": list(GOOD)[number % len(GOOD)] for number in range(len(kinds), 1000)}
    table = recall_table(tmp_path, {name: server.url(f"{kind}/{name}") for name, kind in kinds.items()})

    more = ["--num-workers", "64", "--timeout", "6", "--read-timeout", "1"]  # room for a busy machine
    assert download(tmp_path, table, *more) == 0

    good = {name: kind for name, kind in kinds.items() if kind in GOOD}
    assert image_names(tmp_path) == {name + GOOD[kind][0] for name, kind in good.items()}
    for name, kind in good.items():
        ending, as_it_was = GOOD[kind]
        path = tmp_path / "images" / (name + ending)
        sent = picture(name, "jpg" if ending == ".jpg" else kind)
        if as_it_was:
            assert path.read_bytes() == sent
        else:
            assert Image.open(path).format == "PNG"
            assert not ImageChops.difference(read_image(path), read_image(sent)).getbbox()

    failed = failures(tmp_path)
    assert failed.keys() == kinds.keys() - good.keys()
    for name, (url, reason) in failed.items():
        assert url == server.url(f"{kinds[name]}/{name}")
        assert reason.startswith(BAD[kinds[name]]), (kinds[name], reason)

    output = capsys.readouterr().out
    assert "      8 HTTP 404\n" in output
    assert f"{len(failed)} failed, listed in {tmp_path}/failures.csv" in output
    assert f"{len(good)} of 1,000 images are in {tmp_path}/images" in output
    assert len(server.agents) == 1 and "two-stage-image-selection" in server.agents.pop()


def test_only_what_may_change_is_tried_again(server, tmp_path):
    tries = dict.fromkeys(["404", "403", "410", "busy_for_hours", "cut", "huge"], 1)
    tries |= dict.fromkeys(["500", "breaks", "closes", "hang"], 3)  # the first and --retries 2
    tries |= dict.fromkeys(["flaky", "busy", "breaks_once"], 2)
    urls = {f"{number}_1": server.url(f"{kind}/x") for number, kind in enumerate(tries)}
    assert download(tmp_path, recall_table(tmp_path, urls), "--timeout", "9", "--read-timeout", "1") == 0
    assert server.asked == {f"/{kind}/x": times for kind, times in tries.items()}


def test_addresses_that_lead_nowhere(server, tmp_path):
    urls = {"1_1": "http://127.0.0.1:1/a.jpg", "2_1": "ftp://127.0.0.1/a.jpg", "3_1": "", "4_1": server.url("jpg/4")}
    assert download(tmp_path, recall_table(tmp_path, urls)) == 0
    reasons = {name: reason.partition(":")[0] for name, (_, reason) in failures(tmp_path).items()}
    assert reasons == {"1_1": "connection refused", "2_1": "bad address", "3_1": "bad address"}


def test_a_second_run_fetches_what_is_missing_or_broken(server, tmp_path):
    names = [f"{number}_1" for number in range(6)]
    table = recall_table(tmp_path, {name: server.url(f"png/{name}") for name in names})
    assert download(tmp_path, table) == 0
    images = tmp_path / "images"
    (images / "0_1.png").unlink()
    (images / "1_1.png").write_bytes(b"")
    (images / "2_1.png").unlink()
    (images / "2_1.jpg").write_bytes(picture("2_1", "jpg")[:400])  # broken, under a name that will not be written again
    (images / "3_1.png").rename(images / "3_1.jpg")  # a whole image of a former run that had another ending
    (images / "4_1.png").write_bytes(picture("4_1", "jpg") + b"appended by a camera")
    (images / ".5_1.partial").write_bytes(b"left by a killed run")
    server.asked.clear()

    assert download(tmp_path, table) == 0

    assert server.asked == {f"/png/{name}": 1 for name in names[:3]}
    aside = {"1_1.png.broken", "2_1.jpg.broken"}  # another program's, so not ours to delete
    assert image_names(tmp_path) == {"0_1.png", "1_1.png", "2_1.png", "3_1.jpg", "4_1.png", "5_1.png"} | aside
    assert (images / "2_1.png").read_bytes() == picture("2_1", "png")


def test_an_address_under_two_pois_is_fetched_once(server, tmp_path):
    urls = dict.fromkeys(["1_1", "2_7"], server.url("webp/shared")) | {"3_1": server.url("404/3")}
    assert download(tmp_path, recall_table(tmp_path, urls)) == 0
    assert server.asked["/webp/shared"] == 1
    assert image_names(tmp_path) == {"1_1.png", "2_7.png"}


def test_ranking_images_keep_their_names(server, tmp_path, capsys):
    url = server.url
    pairs = [
        (url("jpg/a.jpg"), url("png/b.jpg?size=2")),
        (url("gif/c.gif"), url("jpg/a.jpg")),
        (url("webp/d.jpg"), url("bmp/a.jpg")),  # the last has the name of another image
    ]
    table = ranking_table(tmp_path, pairs)
    table.write_text(table.read_text(encoding="utf-8") + "one field\n", encoding="utf-8")
    assert download(tmp_path, table, "--dataset", "ranking") == 0
    assert image_names(tmp_path) == {"a.jpg", "b.jpg", "c.gif", "d.jpg"}
    formats = {path.name: Image.open(path).format for path in (tmp_path / "images").iterdir()}
    assert formats == {"a.jpg": "JPEG", "b.jpg": "PNG", "c.gif": "PNG", "d.jpg": "PNG"}
    assert (tmp_path / "images" / "a.jpg").read_bytes() == picture("a.jpg", "jpg")
    assert server.asked["/jpg/a.jpg"] == 1
    assert failures(tmp_path) == {"a.jpg": (pairs[2][1], f"name already taken: by {pairs[0][0]}")}
    assert "line 4: 1 fields instead of 10" in capsys.readouterr().out

    server.asked.clear()
    assert download(tmp_path, table, "--dataset", "ranking") == 0
    assert not server.asked


def test_killed_in_the_middle_and_started_again(server, tmp_path):
    names = [f"{number}_{rank}" for number in range(60) for rank in range(5)]
    table = recall_table(tmp_path, {name: server.url(f"slow/{name}") for name in names})
    command = [sys.executable, str(ROOT / "download_images.py"), *flags(tmp_path, table, "--num-workers", "16")]
    images = tmp_path / "images"

    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(list(images.glob("*.jpg"))) >= 50)
    process.send_signal(signal.SIGKILL)
    process.wait()

    there = [path for path in images.iterdir() if not path.name.startswith(".")]
    assert 50 <= len(there) < len(names)
    assert all(path.read_bytes() == picture(path.stem) for path in there)
    assert list(images.glob(".*.partial")), "killed while nothing was under way: the test shows too little"

    server.asked.clear()
    assert subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    assert image_names(tmp_path) == {f"{name}.jpg" for name in names}
    assert all((images / f"{name}.jpg").read_bytes() == picture(name) for name in names)
    assert sum(server.asked.values()) == len(names) - len(there)


def test_ctrl_c_keeps_what_is_there_and_waits_for_no_server(server, tmp_path):
    urls = {f"{number}_1": server.url(f"{kind}/{number}") for number, kind in enumerate(["jpg"] * 5 + ["hang"] * 20)}
    table = recall_table(tmp_path, urls)
    command = [sys.executable, str(ROOT / "download_images.py"), *flags(tmp_path, table)]
    command += ["--read-timeout", "60", "--timeout", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list((tmp_path / "images").glob("*.jpg"))) == 5 and len(server.asked) == 25)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - start < 5
    assert "5 of 25 images" in output and "20 not tried" in output
    assert errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors
    assert failures(tmp_path) == {}


def test_a_host_that_is_not_there_is_given_up(tmp_path, monkeypatch):
    tried = []

    def fetch(downloader, store, url, names):
        tried.append(url)
        return download_images.Outcome("no such host", "no such host: gone.invalid")

    monkeypatch.setattr(download_images, "fetch", fetch)
    table = recall_table(tmp_path, {f"{number}_1": f"http://gone.invalid/{number}" for number in range(40)})
    assert download(tmp_path, table, "--num-workers", "1") == 1
    assert len(tried) == download_images.UNKNOWN_HOST < 40
    reasons = set(failures(tmp_path).values())
    assert len(failures(tmp_path)) == 40 and all("no such host: gone.invalid" in str(reason) for reason in reasons)


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_many_at_once_beat_one_after_another(tmp_path):
    with LoopbackServer(latency=0.05) as server:
        urls = {f"{number}_1": server.url(f"jpg/{number}") for number in range(200)}
        start = time.perf_counter()
        for url in list(urls.values())[:16]:
            requests.get(url, timeout=5)
        one_by_one = (time.perf_counter() - start) / 16
        start = time.perf_counter()
        assert download(tmp_path, recall_table(tmp_path, urls)) == 0
        assert one_by_one * 200 > 5 * (time.perf_counter() - start)  # 32 workers; benchmarks/download_speed.py: more


def test_nothing_at_all_is_an_error(server, tmp_path, capsys):
    assert download(tmp_path, recall_table(tmp_path, {"1_1": server.url("404/1")})) == 1
    assert failures(tmp_path) == {"1_1": (server.url("404/1"), "HTTP 404")}
    assert "error: not one image could be had" in capsys.readouterr().err


def test_a_full_disk_is_no_fault_of_the_servers(server, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ImageStore, "accept", full)
    assert download(tmp_path, recall_table(tmp_path, {"1_1": server.url("jpg/1")})) == 1
    assert capsys.readouterr().err == "error: No space left on device\n"
    assert image_names(tmp_path) == set()


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ("../x,n,http://127.0.0.1/a,1,1,1,1", (), "line 1: poi_id '../x'"),
        ("1,n,http://127.0.0.1/a,../../x,1,1,1", (), "line 1: rank_number '../../x'"),
        ("1,n,http://127.0.0.1/a", (), "line 1: 3 fields instead of 7"),
        ("", (), "the table is empty"),
        ("1,n,http://127.0.0.1/a,1,1,1,1", ("--num-workers", "0"), "num_workers is 0"),
        ("1,n,http://127.0.0.1/a,1,1,1,1", ("--retries", "-1"), "retries is -1"),
        ("1,n,http://127.0.0.1/a,1,1,1,1", ("--timeout", "nan"), "timeout is nan"),
        (
            "1,n,http://127.0.0.1/a,1,1,1,1",
            ("--failures-csv", "/no/such/folder/f.csv"),
            "/no/such/folder: no such folder",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, capsys, row, more, message):
    table = tmp_path / "table.csv"
    table.write_text(row, encoding="utf-8")
    assert download(tmp_path, table, *more) == 1
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_name_too_long_for_a_file_is_listed(server, tmp_path):
    urls = {f"{'9' * 300}_1": server.url("jpg/1"), "2_1": server.url("jpg/2")}
    assert download(tmp_path, recall_table(tmp_path, urls)) == 0
    assert image_names(tmp_path) == {"2_1.jpg"}
    assert failures(tmp_path)[f"{'9' * 300}_1"][1].startswith("name too long")


@pytest.mark.parametrize("dataset", ["recall", "ranking"])
def test_places_left_open_are_those_of_the_dataset(dataset):
    config = SimpleNamespace(dataset=dataset, dataset_csv=None, image_dir=None, failures_csv=None)
    download_images.resolve(config)
    folder = {"recall": "temp_recall_biztype0_fc5_imagern_500", "ranking": "data/ranking_images"}[dataset]
    assert config.image_dir == str(ROOT / folder)
    assert Path(config.dataset_csv).parent == ROOT / "data"
    assert config.failures_csv == str(ROOT / f"data/download_failures_{dataset}.csv")

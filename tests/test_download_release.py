"""download_release.py against a loopback server: every file in its place, checked, resumed where a connection broke."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback_server import File, Handler, LoopbackServer

import download_release
from models.checkpoint import RANKING_URL, RECALL_URL, RELEASE
from models.tables import SEPARATOR

HUB = "/hub/bert-base-chinese/resolve/main/"
RECALL = "/weights" + RECALL_URL.removeprefix(RELEASE)
RANKING = "/weights" + RANKING_URL.removeprefix(RELEASE)


def weights(seed: int = 0) -> bytes:
    tensors = {"a": torch.randn(300_000, generator=torch.Generator().manual_seed(seed))}
    file = io.BytesIO()
    torch.save({"state_dict": tensors, "min_loss": np.float64(0.5)}, file)
    return file.getvalue()


class CodeInside:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def pickled_code() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": CodeInside()}, file)
    return file.getvalue()


def poi_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array({"普陀山": (1, 2, 3)}, dtype=object))
    return file.getvalue()


def released() -> dict[str, bytes]:
    pair = SEPARATOR.join(["val_1", "", "", "1", "2", "一日游", "跟团游", "http://h/a.jpg", "http://h/b.jpg", ""])
    files = {RECALL: weights(), RANKING: weights(1), "/weights/v0.3/pytorch_model.bin": weights(2)}
    files |= {f"/tables/data/{name}": f"{pair}\n".encode() for name in download_release.TABLES}
    files[f"/tables/data/{download_release.TABLES[0]}"] = "1,普陀山,http://h/a,1,4,3,\n".encode()
    files |= {f"/tables/{name}": poi_file() for name in download_release.POI_FILES}
    return files | {
        HUB + "config.json": b'{"vocab_size": 21128}',
        HUB + "vocab.txt": "".join(f"字{number}\n" for number in range(21128)).encode(),
    }


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with LoopbackServer() as server:
        server.files = {path: File(body) for path, body in released().items()}
        yield server


def fetch(server, folder: Path, *what: str, retries: int = 2) -> int:
    bases = {key: server.url(key) for key in ("weights", "tables", "hub")}
    argv = ["--output-dir", str(folder), "--read-timeout", "1", "--retries", str(retries)]
    argv += [part for key, url in bases.items() for part in (f"--{key}-url", url)]
    return download_release.main([*argv, *(["--what", *what] if what else [])])


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_everything_lands_where_the_scripts_look(server, tmp_path, capsys):
    assert fetch(server, tmp_path) == 0
    assert tree(tmp_path) == {
        "align_model.pth",
        "shoucai_siamese_train_concat_poi_020_0.6520.ckpt",
        "data/temp_recall_biztype0_fc5_imagern_500.csv",
        "data/dwd_mml_train_dataset_1007_urls_train_with_poi_tuomin.csv",
        "data/dwd_mml_train_dataset_1007_urls_val_with_poi_tuomin.csv",
        "temp_dataset_item_pois_relation_1129_poi_2_pic_num.npy",
        "temp_dataset_item_pois_relation_0110_imgs_avg10_vector.npy",
        "temp_dataset_item_pois_relation_1129_imgs_avg_10vector_wo_norm.npy",
        "temp_dataset_item_pois_relation_0110_poi_name_vector.npy",
        "bert-base-chinese/config.json",
        "bert-base-chinese/vocab.txt",
    }
    assert (tmp_path / "align_model.pth").read_bytes() == weights()
    assert "align_model.pth: downloaded, 1 tensors" in capsys.readouterr().out

    server.asked.clear()
    assert fetch(server, tmp_path) == 0
    assert not server.asked
    assert "align_model.pth: there already, 1 tensors" in capsys.readouterr().out


def test_taiyi_only_when_asked_for(server, tmp_path):
    assert fetch(server, tmp_path, "taiyi") == 0
    assert tree(tmp_path) == {"taiyi/pytorch_model.bin"}


def test_settings_name_the_real_places():
    assert download_release.CONFIG["weights_url"] == RELEASE
    assert set(download_release.CONFIG["what"]) == {"recall", "ranking", "tables", "poi", "bert"}


def test_a_connection_that_breaks_is_resumed_not_restarted(server, tmp_path):
    server.files[RECALL] = File(weights(), breaks_after=300_000)
    assert fetch(server, tmp_path, "recall") == 0
    assert tree(tmp_path) == {"align_model.pth"}
    assert (tmp_path / "align_model.pth").read_bytes() == weights()
    (_, first, status), *rest = server.ranges
    assert (first, status) == (None, 200)
    assert len(rest) >= 4 and all(part and status == 206 for _, part, status in rest)


def interrupted(server, folder: Path, file: File) -> int:
    """Have a run that gives up in the middle of the recall weights; the number of bytes it leaves."""
    server.files[RECALL] = file
    assert fetch(server, folder, "recall", retries=0) == 1
    (partial,) = folder.glob(".align_model.pth.partial")
    server.ranges.clear()
    return partial.stat().st_size


def test_the_next_run_goes_on_where_the_last_stopped(server, tmp_path):
    have = interrupted(server, tmp_path, File(weights(), breaks_after=700_000))
    assert 0 < have <= 700_000
    server.files[RECALL] = File(weights())
    assert fetch(server, tmp_path, "recall") == 0
    assert server.ranges == [(RECALL, f"bytes={have}-", 206)]
    assert (tmp_path / "align_model.pth").read_bytes() == weights()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (File(weights(7), '"old"', breaks_after=700_000), File(weights(), '"new"')),  # changed meanwhile
        (File(weights(), breaks_after=700_000), File(weights(), ranges=False)),  # sends all of it, asked or not
        (File(weights(), None, breaks_after=700_000), File(weights(), None)),  # no version: parts might not fit
        (File(weights(), 'W/"1"', breaks_after=700_000), File(weights(), 'W/"1"')),  # not equal byte for byte
    ],
)
def test_parts_of_two_versions_never_meet(server, tmp_path, before, after):
    interrupted(server, tmp_path, before)
    server.files[RECALL] = after
    assert fetch(server, tmp_path, "recall") == 0
    assert [status for *_, status in server.ranges] == [200]
    assert (tmp_path / "align_model.pth").read_bytes() == weights()


def test_a_server_that_ignores_if_range_is_found_out(server, tmp_path):
    interrupted(server, tmp_path, File(weights(7), '"old"', breaks_after=700_000))
    server.files[RECALL] = File(weights(), '"new"', heeds_if_range=False)
    assert fetch(server, tmp_path, "recall") == 0
    assert [status for *_, status in server.ranges] == [206, 200]
    assert (tmp_path / "align_model.pth").read_bytes() == weights()


def test_killed_between_the_last_byte_and_the_check(server, tmp_path):
    interrupted(server, tmp_path, File(weights(), breaks_after=700_000))
    (tmp_path / ".align_model.pth.partial").write_bytes(weights())
    server.files[RECALL] = File(weights())
    assert fetch(server, tmp_path, "recall") == 0
    assert [status for *_, status in server.ranges] == [416]
    assert tree(tmp_path) == {"align_model.pth"}


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusal_leaves_what_has_come(server, tmp_path, status, monkeypatch):
    have = interrupted(server, tmp_path, File(weights(), breaks_after=700_000))
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "send_file", lambda self, file: self.send(b"no", status))
        assert fetch(server, tmp_path, "recall", retries=0) == 1
    assert (tmp_path / ".align_model.pth.partial").stat().st_size == have > 0
    server.files[RECALL] = File(weights())
    assert fetch(server, tmp_path, "recall") == 0
    assert server.ranges == [(RECALL, f"bytes={have}-", 206)]


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    interrupted(server, tmp_path, File(weights(), breaks_after=700_000))
    (tmp_path / ".align_model.pth.partial").write_bytes(weights() + b"more")
    server.files[RECALL] = File(weights())
    assert fetch(server, tmp_path, "recall") == 0
    assert [status for *_, status in server.ranges] == [416, 200]
    assert (tmp_path / "align_model.pth").read_bytes() == weights()


@pytest.mark.parametrize(
    ("path", "place", "body", "message"),
    [
        (RECALL, "align_model.pth", b"<!DOCTYPE html><html>Sign in</html>", "an HTML page"),
        (RECALL, "align_model.pth", weights()[:100_000], "cut off or damaged"),
        (RECALL, "align_model.pth", pickled_code(), "refused"),
        (HUB + "vocab.txt", "bert-base-chinese/vocab.txt", b"<html>Sign in</html>", "1 lines instead of the 21,128"),
        (HUB + "config.json", "bert-base-chinese/config.json", b"<html>Sign in</html>", "no BERT config"),
        (f"/tables/data/{download_release.TABLES[0]}", f"data/{download_release.TABLES[0]}", b"<html>", "1 fields"),
        (f"/tables/data/{download_release.TABLES[2]}", f"data/{download_release.TABLES[2]}", b"<html>", "no usable"),
        (f"/tables/{download_release.POI_FILES[0]}", download_release.POI_FILES[0], b"version https://git-lfs", "npy"),
        (f"/tables/{download_release.POI_FILES[0]}", download_release.POI_FILES[0], b"", "npy"),
    ],
)
def test_what_is_not_the_file_is_removed(server, tmp_path, capsys, monkeypatch, path, place, body, message):
    monkeypatch.chdir(tmp_path)
    server.files[path] = File(body, type="text/html")
    assert fetch(server, tmp_path) == 1
    there = tree(tmp_path)
    assert len(there) == 10 and place not in there  # the other ten came; nothing half-written, no code was run
    output, errors = capsys.readouterr()
    line = next(line for line in output.splitlines() if line.startswith(f"{place}: FAILED"))
    assert message in line and ".partial" not in line
    assert f"by hand: save {server.url(path[1:])}\n       as {tmp_path / place}\n" in output
    assert errors.startswith("error: 1 files") and place in errors and errors.count("\n") == 1


def test_a_file_of_the_users_own_is_never_replaced(server, tmp_path, capsys):
    (tmp_path / "align_model.pth").write_bytes(b"<html>saved by hand</html>")
    assert fetch(server, tmp_path, "recall") == 1
    assert "an HTML page, not weights; delete it" in capsys.readouterr().out
    assert (tmp_path / "align_model.pth").read_bytes() == b"<html>saved by hand</html>"
    assert not server.asked


def test_addresses_that_do_not_answer(server, tmp_path, capsys):
    del server.files[RECALL]
    argv = ["--output-dir", str(tmp_path), "--what", "recall", "bert", "--retries", "0"]
    argv += ["--weights-url", server.url("404"), "--hub-url", "http://127.0.0.1:1"]
    assert download_release.main(argv) == 1
    output = capsys.readouterr().out
    assert "align_model.pth: FAILED: HTTP 404" in output
    assert "vocab.txt: FAILED: connection refused" in output
    assert tree(tmp_path) == set()

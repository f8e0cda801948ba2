"""What every script shares: settings that are too small, outputs that are no files, and how a run is ended."""

import importlib
import os
import signal
import subprocess
import sys

import pytest

from models.copies import first_copies
from models.errors import InputError
from models.files import replacing
from models.left_out import LeftOut
from models.script import ROOT, run_script

TOO_SMALL = [
    ("align_recall_test_with_mmkg_model", "--top-k", "0"),
    ("align_recall_test_with_mmkg_model", "--batch-size", "-1"),
    ("local_eval_test", "--num-workers", "-1"),
    ("build_poi_vectors", "--batch-size", "0"),
    ("select_images", "--recall-k", "0"),
    ("train_align", "--log-every", "0"),
    ("train_align", "--text-layers", "0"),
    ("train_align", "--learning-rate", "nan"),
    ("train_ranking", "--epochs", "0"),
    ("train_ranking", "--seed", "-1"),
    ("make_demo_data", "--seed", "-1"),
    ("download_images", "--timeout", "0"),
    ("align_recall@K", "--recall-k", "-1"),
]


@pytest.mark.parametrize(("module", "flag", "value"), TOO_SMALL)
def test_a_setting_that_is_too_small_is_one_line(module, flag, value, capsys):
    assert importlib.import_module(module).main([flag, value]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {flag.strip('-').replace('-', '_')} is ") and error.count("\n") == 1


def test_val_csv_wants_its_images(capsys):
    assert importlib.import_module("train_align").main(["--val-csv", "val.csv"]) == 1
    assert capsys.readouterr().err == "error: set both val_csv and val_image_dir to measure recall@K, or neither\n"


CONFIG = {"title": ""}


def test_text_that_is_not_utf8_is_one_line(capsys, monkeypatch):
    with open(os.devnull, "w", encoding="utf-8") as utf8:
        monkeypatch.setattr("sys.stdout", utf8)
        assert run_script(__name__, ["--title", "\udcff"], lambda config: None) == 1
    assert "cannot be written here" in capsys.readouterr().err


def test_a_link_stays_and_a_device_is_written_to(tmp_path):
    (tmp_path / "real.csv").write_text("before")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with replacing(tmp_path / "link.csv") as partial:
        partial.write_text("after")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "after"
    os.mkfifo(tmp_path / "pipe")
    with replacing(tmp_path / "pipe") as partial:
        assert partial == (tmp_path / "pipe").resolve()
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(InputError, match="is a folder"), replacing(tmp_path):
        pass


def test_sigterm_leaves_no_unfinished_file(tmp_path):
    code = (
        "import sys, time\nfrom models.files import replacing\nfrom models.script import run_script\nCONFIG = {}\n"
        "def work(config):\n"
        f"    with replacing({str(tmp_path / 'out.csv')!r}) as partial:\n"
        "        partial.write_text('half'); print('now', flush=True); time.sleep(60)\n"
        "if __name__ == '__main__':\n    sys.exit(run_script(__name__, [], work))\n"
    )
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, str(tmp_path / "script.py")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert any(line == "now\n" for line in run.stdout)
    run.send_signal(signal.SIGTERM)
    assert run.wait(20) == 130
    assert os.listdir(tmp_path) == ["script.py"]


def test_all_that_is_left_out_is_in_a_file(tmp_path, capsys):
    left_out = LeftOut(tmp_path / "scores.csv")
    left_out.list("images gone", [f"{number},jpg" for number in range(30)])
    left_out.list("nothing", [])
    left_out.write()
    lines = (tmp_path / "scores_left_out.csv").read_text().splitlines()
    assert lines[:2] == ["reason,what", 'images gone,"0,jpg"'] and len(lines) == 31
    printed = capsys.readouterr().out
    assert "images gone: 30\n" in printed and "… and 10 more" in printed and "nothing" not in printed
    LeftOut(tmp_path / "scores.csv").write()  # the next run left nothing out
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_no_copy_of_any(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"same")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "d.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "e.jpg").mkdir()
    paths = sorted(tmp_path.iterdir())
    assert list(first_copies(paths).values()) == [paths[0], paths[0], *paths[2:]]


def test_a_reader_that_leaves_is_no_error(tmp_path):
    code = "import sys\nfrom models.script import run_script\nCONFIG = {}\n"
    code += "def work(config):\n    while True:\n        print('x' * 1000)\n"
    (tmp_path / "script.py").write_text(
        f"{code}if __name__ == '__main__':\n    sys.exit(run_script(__name__, [], work))\n"
    )
    command = ["bash", "-c", f"'{sys.executable}' '{tmp_path}/script.py' | head -1"]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert run.stdout == "script.py:\n" and run.stderr == ""

"""What every script shares: a CONFIG dict that is also the command line, exit codes, and where paths start."""

import argparse
import gc
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from .errors import InputError

ROOT = Path(__file__).resolve().parent.parent
# What the numbers among the settings must be; a name means the same in every script.
ABOVE_0 = (
    *("batch_size", "connect_timeout", "embed_dim", "epochs", "eval_every", "image_depth", "image_size", "image_width"),
    *("item_images", "log_every", "max_megabytes", "read_timeout", "recall_k", "save_every", "steps", "test_pairs"),
    *("text_layers", "thumbnail_size", "timeout", "top_k", "train_pairs", "triple_batch"),
)
AT_LEAST_0 = (
    *("learning_rate", "logit_scale_rate", "num_workers", "rejected_k", "retries", "seed", "triple_weight"),
    *("warmup_steps", "weight_decay"),
)
PATH_SUFFIXES = ("_path", "_dir", "_csv", "_vectors", "_counts", "_file", "_npz", "_weights", "_html", "_prefix")


def run_script(
    module: str, argv: list[str] | None, work: Callable, types: dict | None = None, choices=None, resolve=None
) -> int:
    """Parse `argv` over the CONFIG of the script named `module`, print the settings, call `work(config)`.

    Returns the exit code: 0 done, 1 for an InputError or a file that cannot be read or written (one line on stderr),
    130 interrupted.  `types` names the type of settings whose default is None (str otherwise), `choices` the values
    allowed for a setting, and `resolve(config)` fills in defaults that depend on other settings.
    """
    script = sys.modules[module]
    config = parse_config(script.CONFIG, argv, script.__doc__, script.__file__, types, choices)
    if resolve:
        resolve(config)
    quiet_libraries()
    gc.set_threshold(200_000)  # importing torch makes a million objects that stay; looking for garbage there takes 1 s
    try:
        print(f"{Path(script.__file__).name}:")
        for key, value in vars(config).items():
            print(f"  {key} = {value}")
        sys.stdout.flush()
        check_numbers(config)
        with sigterm_as_interrupt():
            work(config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except UnicodeEncodeError as error:
        print(f"error: {error.object!r} cannot be written here: {error.reason}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has left, as `head` does; nor is there anyone to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def check_numbers(config) -> None:
    """InputError for a setting that is too small."""
    for key, value in vars(config).items():
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float):
                continue
            if key in ABOVE_0 and not number > 0:
                raise InputError(f"{key} is {number}; it must be more than 0")
            if key in AT_LEAST_0 and not number >= 0:
                raise InputError(f"{key} is {number}; it must be 0 or more")


@contextmanager
def sigterm_as_interrupt():
    """A job scheduler's SIGTERM ends a script as Ctrl-C does, with its unfinished files removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(code: int) -> NoReturn:
    """End the process at once, all files being written and closed: taking torch's modules apart would take 1 s."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def parse_config(defaults: dict, argv, doc: str, source: str, types=None, choices=None) -> SimpleNamespace:
    """CONFIG with the flags of `argv` over it.  A flag's help is the trailing comment of its key in the source file."""
    types, choices, comments = types or {}, choices or {}, setting_comments(source)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for key, default in defaults.items():
        flag, text = "--" + key.replace("_", "-"), f"{comments.get(key, '')} (default: {default})".replace("%", "%%")
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text.strip())
            continue
        many = isinstance(default, list)
        sample = default[0] if many and default else default
        parser.add_argument(
            flag,
            type=types.get(key, str if sample is None else type(sample)),
            nargs="+" if many else None,
            default=argparse.SUPPRESS,
            choices=choices.get(key),
            metavar=None if key in choices else key.rsplit("_", 1)[-1].upper(),
            help=text.strip(),
        )
    given = vars(parser.parse_args(argv))
    # A relative path in CONFIG starts at this project, one on the command line where the user stands.
    return SimpleNamespace(**{key: given.get(key, from_root(key, value)) for key, value in defaults.items()})


def from_root(key: str, value):
    """A default path made absolute, so that the scripts work from any folder; other values as they are."""
    if isinstance(value, list):
        return [from_root(key, each) for each in value]
    if not isinstance(value, str) or not value or not key.endswith(PATH_SUFFIXES):
        return value
    if key.endswith("_path") and not Path(value).suffix and not (ROOT / value).exists():
        return value  # a name on the Hugging Face hub
    return str(ROOT / value)


def setting_comments(source: str) -> dict[str, str]:
    """The trailing comment of each `"key": value,  # comment` line of a script, continuation lines joined."""
    comments, key = {}, None
    for line in Path(source).read_text(encoding="utf-8").splitlines():
        if match := re.match(r'\s+"(\w+)":\s.*?\s\s?#\s(.+)$', line):
            key = match[1]
            comments.setdefault(key, match[2])
        elif key and (match := re.match(r"\s+#\s(.+)$", line)):
            comments[key] += " " + match[1]
        else:
            key = None
        if line.startswith("}"):
            break  # the end of CONFIG
    return comments


def from_here(path: str | Path) -> str:
    """How a path is written into results: relative to this project if inside, so that the result can move with it."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def listing(title: str, items: list[str], most: int = 20) -> None:
    """Print how many items were left out and which; nothing where there are none."""
    if items:
        print(f"{title}: {len(items)}")
        for item in items[:most]:
            print(f"  {item}")
        if len(items) > most:
            print(f"  … and {len(items) - most} more")


def progress(iterable=None, **options):
    """A tqdm progress bar on stderr, off when that is no terminal."""
    from tqdm import tqdm

    return tqdm(iterable, disable=None, dynamic_ncols=True, **options)


def quiet_libraries() -> None:
    """Keep the libraries' own notices out of the scripts' output; errors still show."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module="PIL")  # read_image says what matters

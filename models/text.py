"""Text preprocessing: BERT's tokenisation, always lower-cased, cut to 50 tokens."""

from pathlib import Path

from torch import Tensor

from .errors import InputError

MAX_TOKENS = 50


class Tokenize:
    """Texts -> {"input_ids", "attention_mask"}, each (B, T) int64, padded to the longest, T <= 50.

    `bert_path` is a folder with vocab.txt (or tokenizer.json), else a name on the Hugging Face hub.  Lower-casing is on
    whatever its tokenizer_config.json says, because the release was trained from the bare vocabulary.
    """

    def __init__(self, bert_path: str):
        from transformers import BertTokenizer

        vocabulary = Path(bert_path) / "vocab.txt"
        try:
            if vocabulary.is_file():
                self.tokenizer = BertTokenizer(vocab=read_vocabulary(vocabulary), do_lower_case=True)
            else:  # a path is never asked for on the hub
                local = Path(bert_path).is_absolute() or Path(bert_path).exists()
                self.tokenizer = BertTokenizer.from_pretrained(bert_path, do_lower_case=True, local_files_only=local)
        except InputError:
            raise
        except Exception as error:  # the hub client raises many kinds: no network, no such name, no such file
            raise InputError(
                f"{bert_path}: neither a folder with BERT's vocab.txt nor a hub name that can be reached; "
                "run download_release.py --what bert, or set bert_path"
            ) from error
        if len(self.tokenizer) <= 5:  # nothing but the special tokens: every text would become [UNK]
            raise InputError(f"{bert_path}: its vocabulary has no words; run download_release.py --what bert")

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return {key: encoded[key] for key in ("input_ids", "attention_mask")}


def read_vocabulary(path: Path) -> dict[str, int]:
    """vocab.txt, one token a line; its number is its id.  InputError names what BERT cannot do without."""
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; run download_release.py --what bert") from error
    if tokens[-1] == "":
        tokens.pop()
    vocabulary = {token.rstrip("\r"): index for index, token in enumerate(tokens)}
    if missing := {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - vocabulary.keys():
        raise InputError(f"{path}: no BERT vocabulary, {', '.join(sorted(missing))} missing; run download_release.py")
    return vocabulary

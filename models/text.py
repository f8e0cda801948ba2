"""Text preprocessing: BERT's tokenisation, always lower-cased, cut to 50 tokens."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor

from .errors import InputError

MAX_TOKENS = 50
NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SPECIAL = (*NEEDED, "[MASK]")
NO_BERT = (
    "no BERT vocabulary, neither a folder with a vocab.txt full of words nor a hub name that can be reached; "
    "run download_release.py --what bert, or set bert_path"
)


class Tokenize:
    """Texts -> {"input_ids", "attention_mask"}, each (B, T) int64, padded to the longest, T <= 50.

    `bert_path` is a folder with vocab.txt (or tokenizer.json), else a name on the Hugging Face hub.  Lower-casing is on
    whatever its tokenizer_config.json says, because the release was trained from the bare vocabulary.
    """

    def __init__(self, bert_path: str):
        vocabulary = Path(bert_path) / "vocab.txt"
        self.tokenizer = word_piece(read_vocabulary(vocabulary)) if vocabulary.is_file() else saved_or_hub(bert_path)
        self.size = self.tokenizer.get_vocab_size()
        if self.size <= len(SPECIAL):  # every text would become [UNK]
            raise InputError(f"{bert_path}: {NO_BERT}")
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding(pad_id=self.tokenizer.token_to_id("[PAD]"))

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer.encode_batch(texts)
        return {
            "input_ids": torch.tensor([each.ids for each in encoded]),
            "attention_mask": torch.tensor([each.attention_mask for each in encoded]),
        }


def word_piece(vocabulary: dict[str, int]) -> Tokenizer:
    """What transformers' BertTokenizer makes of a bare vocabulary, without importing transformers."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(*((token, vocabulary[token]) for token in ("[SEP]", "[CLS]")))
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL if token in vocabulary]
    tokenizer.add_special_tokens(special)
    return tokenizer


def saved_or_hub(bert_path: str) -> Tokenizer:
    """The tokenizer of a folder without vocab.txt, or of a name on the hub."""
    from huggingface_hub import logging
    from transformers import BertTokenizer

    logging.set_verbosity(logging.CRITICAL)  # its retries; what came of them is said below
    local = Path(bert_path).is_absolute() or Path(bert_path).exists()  # a path is never asked for on the hub
    try:
        return BertTokenizer.from_pretrained(bert_path, do_lower_case=True, local_files_only=local).backend_tokenizer
    except Exception as error:  # the hub client raises many kinds: no network, no such name, no such file
        raise InputError(f"{bert_path}: {NO_BERT}") from error


def read_vocabulary(path: Path) -> dict[str, int]:
    """vocab.txt, one token a line; its number is its id.  InputError names what BERT cannot do without."""
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; run download_release.py --what bert") from error
    if tokens[-1] == "":
        tokens.pop()
    vocabulary = {token.rstrip("\r"): index for index, token in enumerate(tokens)}
    if missing := set(NEEDED) - vocabulary.keys():
        raise InputError(f"{path}: no BERT vocabulary, {', '.join(sorted(missing))} missing; run download_release.py")
    return vocabulary

"""Tokenisation: lower-cased whatever the folder says, cut to 50 tokens, from a folder or a hub name."""

import json

import pytest
from conftest import SPECIAL, WORDS
from transformers import BertTokenizer

from models.errors import InputError
from models.text import Tokenize

IDS = {word: index for index, word in enumerate(SPECIAL + WORDS)}


def test_lower_cases_even_if_the_folder_says_otherwise(vocabulary, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((vocabulary / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    tokens = Tokenize(str(tmp_path))(["Hello KITTY乐园"])["input_ids"].tolist()
    assert tokens == [[IDS[word] for word in ("[CLS]", "hello", "kitty", "乐", "园", "[SEP]")]]


def test_pads_to_the_longest_and_cuts_at_fifty(vocabulary):
    tokens = Tokenize(str(vocabulary))(["西湖", "山" * 100])
    assert tokens.keys() == {"input_ids", "attention_mask"}
    assert tokens["input_ids"].shape == (2, 50)
    assert tokens["attention_mask"].sum(1).tolist() == [4, 50]
    assert tokens["input_ids"][1, -1] == IDS["[SEP]"] and tokens["input_ids"][0, 4:].eq(IDS["[PAD]"]).all()


def test_a_saved_tokeniser_without_a_bare_vocabulary_works_too(vocabulary, tmp_path):
    BertTokenizer(vocab=IDS).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").exists()
    text = ["Hello 西湖"]
    assert Tokenize(str(tmp_path))(text)["input_ids"].tolist() == Tokenize(str(vocabulary))(text)["input_ids"].tolist()


TEXTS = ["", "Hello 西湖", "[SEP] [MASK]西[UNK] [sep]", "éÀ  乐\u3000园\t\u200b", "##s 𠀀, “kitty”", "ＨＥＬＬＯ\x00①"]


def test_every_id_is_that_of_transformers(vocabulary):
    expected = BertTokenizer(vocab=IDS, do_lower_case=True)(TEXTS, padding=True, return_tensors="pt")
    tokens = Tokenize(str(vocabulary))(TEXTS)
    for key, value in tokens.items():
        assert value.tolist() == expected[key].tolist(), key


def test_a_line_separator_in_the_vocabulary_shifts_no_id(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "\u2028", "\x85", "西"]) + "\n", encoding="utf-8")
    assert Tokenize(str(tmp_path))(["西"])["input_ids"].tolist() == [[2, 7, 3]]


@pytest.mark.parametrize("content", [b"a\nb\n", b"", b"\xff\xfe"])
def test_a_file_that_is_no_vocabulary(tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"vocab\.txt"):
        Tokenize(str(tmp_path))


def test_neither_folder_nor_reachable_name(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (str(tmp_path), str(tmp_path / "missing"), "no-such-user/no-such-model"):
        with pytest.raises(InputError, match=r"run download_release\.py"):
            Tokenize(name)

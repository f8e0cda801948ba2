"""Scores equal to efficientnet_pytorch + OpenCV + BertModel on live weights, and a comparison that notices mistakes."""

import pytest
import torch
from conftest import SPECIAL, WORDS, photograph
from PIL import Image
from tokenizers.normalizers import BertNormalizer

from benchmarks import released_procedure
from benchmarks.live_weights import live_align, released_file
from models import efficientnet, encode, preprocess, text
from models.align import AlignConfig
from models.encode import encode_images, encode_texts
from models.loading import load_align

TEXTS = ["海底世界", "Hello Kitty乐园", "西湖", "西湖日出" * 20, "", "未知的字"]
SMALL_TEXT = {"vocab_size": len(SPECIAL + WORDS), "hidden_size": 48, "intermediate_size": 96}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A full-size EfficientNet-B3 and a small BERT: the oracle, and its checkpoint in the released format."""
    model = live_align(**SMALL_TEXT)
    path = tmp_path_factory.mktemp("released") / "align_model.pth"
    sizes = AlignConfig(vocab_size=SMALL_TEXT["vocab_size"], text_dim=48, text_hidden=96)
    torch.save(released_file(model) | {"config": vars(sizes)}, path)
    return model, path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pictures of odd shapes and modes, more than one micro-batch."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate([(640, 480), (300, 900), (224, 224), (500, 500), (90, 31), (1, 1)]):
        photograph(number, *size).save(folder / f"{number}_1.jpg", quality=95)
    photograph(9, 200, 300).convert("L").save(folder / "6_1.png")
    photograph(10, 200, 300).convert("P").save(folder / "7_1.png")
    photograph(11, 200, 300).convert("CMYK").save(folder / "8_1.jpg")
    return sorted(folder.iterdir())


def difference(released, files, vocabulary) -> float:
    """The largest difference between our scores and the oracle's, over all texts and images."""
    model, path = released
    towers = load_align(path, str(vocabulary), "cpu")
    images = encode_images(towers, files)
    texts = encode_texts(towers, TEXTS)
    ours = torch.stack([texts[text] for text in TEXTS]) @ images.vectors.T  # (texts, images)

    tokenize = released_procedure.tokenizer(vocabulary / "vocab.txt")
    expected_texts = torch.cat([released_procedure.encode_texts(model, tokenize, [text]) for text in TEXTS])
    expected = expected_texts @ released_procedure.encode_images(model, files).T
    assert expected.std() > 0.03 and expected.std(dim=1).min() > 0.01, "the weights must react to images and texts"
    return (ours - expected).abs().max().item()


def test_every_score_is_exact(released, files, vocabulary):
    assert difference(released, files, vocabulary) < 1e-5


def pad_on_both_sides(patch):
    patch.setattr(efficientnet.TrailingPadConv2d, "forward", lambda self, x: self._conv_forward(
        torch.nn.functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias))  # fmt: skip


def default_eps(patch):
    patch.setattr(efficientnet, "BATCH_NORM", torch.nn.BatchNorm2d)


def antialias(patch):
    def resize(image, height, width):
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        return preprocess.np.array(resized)

    patch.setattr(preprocess, "resize_linear", resize)


def keep_upper_case(patch):
    patch.setattr(text, "BertNormalizer", lambda lowercase: BertNormalizer(lowercase=False))


def no_truncation(patch):
    patch.setattr("models.text.MAX_TOKENS", 60)


@pytest.mark.parametrize("mistake", [pad_on_both_sides, default_eps, antialias, keep_upper_case, no_truncation])
def test_the_comparison_notices(mistake, released, files, vocabulary, monkeypatch):
    expected_tokenizer = released_procedure.tokenizer(vocabulary / "vocab.txt")
    monkeypatch.setattr(released_procedure, "tokenizer", lambda _: expected_tokenizer)
    mistake(monkeypatch)
    assert difference(released, files, vocabulary) > 1e-4


def test_one_by_one_and_together_give_the_same(released, files, vocabulary):
    towers = load_align(released[1], str(vocabulary), "cpu")
    together = encode_images(towers, files, batch_size=len(files), num_workers=1)
    alone = encode_images(towers, files, batch_size=1, num_workers=3)
    assert together.paths == alone.paths == files
    torch.testing.assert_close(together.vectors, alone.vectors, atol=1e-5, rtol=0)
    pixels = towers.preprocess(Image.open(files[0]))[None]
    torch.testing.assert_close(towers.model.encode_image(pixels), alone.vectors[:1], atol=1e-5, rtol=0)


def test_lower_precision_is_close_and_another_result(released, files, vocabulary):
    towers = load_align(released[1], str(vocabulary), "cpu")
    exact, rough = (encode_images(towers, files[:2], precision=precision).vectors for precision in ("fp32", "bf16"))
    assert 1e-5 < (exact - rough).abs().max() < 0.1
    with pytest.raises(encode.InputError, match="precision 'fp8'"):
        encode_texts(towers, ["西湖"], precision="fp8")

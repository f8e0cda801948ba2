"""The release's own way to score images for texts, put together from the libraries its weights were made with.

The oracle of the parity tests and the baseline of the benchmarks: efficientnet_pytorch, OpenCV and BertModel, 16 images
at a time, decoded one after another in between.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class ReleasedAlign(nn.Module):
    """The recall network under the released parameter names; `text` overrides sizes of bert-base-chinese's config."""

    def __init__(self, **text):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.image_model = EfficientNet.from_name("efficientnet-b3", num_classes=512)
        config = BertConfig(**{"vocab_size": 21128, "num_hidden_layers": 4} | text)
        self.text_model = BertModel(config)
        self.image_hidden_layer = nn.Linear(512, 512)
        self.text_hidden_layer = nn.Linear(config.hidden_size, 512)

    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(self.image_hidden_layer(self.image_model(images)), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.text_model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return F.normalize(self.text_hidden_layer(hidden[:, 0, :]), dim=-1)


def preprocess(path: Path) -> Tensor:
    """An image file -> (3, 224, 224)."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    pixels = cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1))


def tokenizer(vocab_file: Path) -> BertTokenizer:
    """The bare vocabulary, with lower-casing."""
    tokens = vocab_file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, do_lower_case=True)


@torch.no_grad()
def encode_images(model: ReleasedAlign, paths: list[Path], batch_size: int = 16) -> Tensor:
    """Image files -> (N, 512)."""
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    return torch.cat([model.encode_image(torch.stack([preprocess(path) for path in batch])) for batch in batches])


@torch.no_grad()
def encode_texts(model: ReleasedAlign, tokenize: BertTokenizer, texts: list[str], batch_size: int = 16) -> Tensor:
    """Texts -> (N, 512)."""
    vectors = []
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        tokens = tokenize(batch, padding=True, truncation=True, max_length=50, return_tensors="pt")
        vectors.append(model.encode_text(tokens["input_ids"], tokens["attention_mask"]))
    return torch.cat(vectors)

"""Published Chinese text–image models to compare the recall model with: Taiyi-CLIP and Chinese-CLIP.

Their loaders return the same TwoTower as `load_align`, so that one encoding loop and one result file serve them all.
"""

import os
import pickle
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .checkpoint import RELEASE, load_checkpoint, load_weights, named
from .errors import InputError
from .images import ImageError
from .loading import TwoTower, resolve_device

TAIYI_URL = f"{RELEASE}/v0.3/pytorch_model.bin"  # its text tower as the paper's authors fine-tuned it
CLIP = "openai/clip-vit-base-patch32"
LONGEST_SIDE = 200  # times the shortest, which becomes 224 pixels: a strip of 1×100,000 would fill the memory


def load_taiyi(
    model_path: str, weights: str | Path | None = None, clip_path: str = CLIP, device: str = "auto"
) -> TwoTower:
    """Taiyi-CLIP: its BERT classifier's logits as text vector, CLIP's image tower.  InputError if a file does not fit.

    `model_path` and `clip_path` are folders in the hub's layout, or hub names.  `weights` is a file to use instead of
    the folder's own pytorch_model.bin, such as the authors' (TAIYI_URL).
    """
    from transformers import BertConfig, BertForSequenceClassification, CLIPModel
    from transformers.initialization import no_init_weights

    device = resolve_device(device)
    if weights:
        config = from_hub(BertConfig, model_path)
        with no_init_weights():
            bert = BertForSequenceClassification(config)
        state, *_ = load_checkpoint(weights, TAIYI_URL)
        # saved by an older transformers, where the positions were in the file
        load_weights(bert, state, weights, known=("bert.embeddings.position_ids",))
    else:
        bert = pretrained(BertForSequenceClassification, model_path)
    clip = pretrained(CLIPModel, clip_path)
    if bert.config.num_labels != clip.config.projection_dim:
        raise InputError(
            f"{model_path} has text vectors of {bert.config.num_labels} numbers, {clip_path} image vectors of "
            f"{clip.config.projection_dim}; set clip_path to the CLIP that this Taiyi was trained with"
        )
    model = Baseline(ImageTower(clip), TaiyiTextTower(bert))
    return TwoTower(model.eval().to(device), HubPreprocess(clip_path), HubTokenize(model_path, bert.config))


def load_chinese_clip(model_path: str, device: str = "auto") -> TwoTower:
    """Any Chinese-CLIP that transformers ships, from a folder in the hub's layout or a hub name."""
    from transformers import ChineseCLIPModel

    device = resolve_device(device)
    clip = pretrained(ChineseCLIPModel, model_path)
    model = Baseline(ImageTower(clip), ChineseClipTextTower(clip))
    return TwoTower(
        model.eval().to(device), HubPreprocess(model_path), HubTokenize(model_path, clip.config.text_config)
    )


class Baseline(nn.Module):
    """Two towers behind the methods of AlignModel; vectors are L2-normalised."""

    def __init__(self, images: nn.Module, texts: nn.Module):
        super().__init__()
        self.images, self.texts = images, texts

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) from `HubPreprocess` -> (B, D)."""
        return self.images(images.to(next(self.parameters()).device))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) token ids and mask from `HubTokenize` -> (B, D)."""
        device = next(self.parameters()).device
        return self.texts(input_ids.to(device), attention_mask.to(device))

    def image_tower(self) -> nn.Module:
        return self.images


class ImageTower(nn.Module):
    """The vision transformer of a CLIP or Chinese-CLIP."""

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.vision_model(pixel_values=images).pooler_output  # (B, hidden)
        return F.normalize(self.visual_projection(pooled), dim=-1)


class TaiyiTextTower(nn.Module):
    def __init__(self, bert: nn.Module):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.normalize(self.bert(input_ids=input_ids, attention_mask=attention_mask).logits, dim=-1)


class ChineseClipTextTower(nn.Module):
    def __init__(self, clip: nn.Module):
        super().__init__()
        self.text_model, self.text_projection = clip.text_model, clip.text_projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return F.normalize(self.text_projection(tokens[:, 0]), dim=-1)  # of (B, T, hidden) the first token


class HubPreprocess:
    """What the folder's preprocessor_config.json says: RGB image -> (3, H, W).

    By the processor that transformers 5 takes by default, torchvision's; Pillow's differs by one level of 255 at most.
    """

    def __init__(self, path: str):
        from transformers import AutoImageProcessor

        self.processor = from_hub(AutoImageProcessor, path)

    def __call__(self, image: Image.Image) -> Tensor:
        if max(image.size) > LONGEST_SIDE * min(image.size):
            raise ImageError(f"{image.width}×{image.height} pixels, too narrow")
        return self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]


class HubTokenize:
    """The folder's own BERT tokenisation: texts -> {"input_ids", "attention_mask"}, cut to the model's positions."""

    def __init__(self, path: str, config):
        from transformers import BertTokenizer

        self.tokenizer, self.max_tokens = from_hub(BertTokenizer, path), config.max_position_embeddings
        if not 5 < len(self.tokenizer) <= config.vocab_size:  # 5: nothing but the special tokens, for want of a file
            raise InputError(
                f"{path}: {len(self.tokenizer)} tokens in its vocabulary, its model has {config.vocab_size}"
            )

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        return {key: encoded[key] for key in ("input_ids", "attention_mask")}


def pretrained(kind: type, path: str) -> nn.Module:
    """A transformers model in float32 with every weight from its file; .bin files are read with weights_only."""
    model, found = from_hub(kind, path, dtype=torch.float32, weights_only=True, output_loading_info=True)
    if found["missing_keys"]:  # transformers would draw them at random
        raise InputError(f"{path}: no {kind.__name__}: {named('missing', sorted(found['missing_keys']))}")
    return model


def from_hub(kind: type, path: str, **options):
    """`kind.from_pretrained`, without its notices.  InputError for whatever goes wrong."""
    with quiet_transformers():
        try:
            return kind.from_pretrained(path, **options)
        except pickle.UnpicklingError as error:  # whose own message advises to read the file without care
            raise InputError(
                f"{path}: its weight file is not plain weights: damaged, or it holds code, which is never run"
            ) from error
        except Exception as error:  # the hub client and the readers of its files raise many kinds
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{path}: no {kind.__name__} in this folder, or under this name on the Hugging Face hub "
                f"({type(error).__name__}: {reason})"
            ) from error


@contextmanager
def quiet_transformers():
    """Without loading reports and retries, bars only on a terminal, and no word to the hub's conversion service."""
    import huggingface_hub
    from transformers.utils import logging

    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    loggers = logging, huggingface_hub.logging
    levels = [each.get_verbosity() for each in loggers]
    bars = logging.is_progress_bar_enabled()
    for each in loggers:
        each.set_verbosity(logging.CRITICAL)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

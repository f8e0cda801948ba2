"""Random weights that react to their input, in the released files' format, for tests and timings.

    python -m benchmarks.live_weights --output-path /tmp/align_model.pth

Freshly initialised EfficientNets give nearly the same output for every image, even with wrong padding, so a comparison
on them proves nothing.  Here convolutions are Kaiming-initialised and batch-norm statistics come from images.
"""

CONFIG = {
    "output_path": "align_model.pth",  # where the checkpoint goes
    "seed": 0,  # of the random weights
}

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.released_procedure import ReleasedAlign
from models.files import replacing
from models.script import run_script


def pictures(count: int, size: int = 224, seed: int = 0) -> Tensor:
    """(count, 3, size, size) random pictures, normalised as photographs are, each with its own colours and grain."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.randn(count, 3, 1, 1, generator=generator).repeat(1, 1, size, size)
    for cells in (2, 5, 16, 60, size):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        strength = torch.randn(count, 3, 1, 1, generator=generator).exp() / cells**0.5
        mode = "nearest" if cells == 5 else "bilinear"  # some edges
        total += strength * nn.functional.interpolate(noise, size=(size, size), mode=mode)
    return (total / total.std()).clamp(-2, 2.5)


@torch.no_grad()
def enliven(model: nn.Module, calibrate, seed: int = 0) -> None:
    """Draw all weights of `model` anew, then set batch-norm statistics by running `calibrate(model)` in train mode."""
    torch.manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:  # squeeze-excitation: saturated gates would magnify rounding a thousandfold
                module.weight.mul_(0.1)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.3 * module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        elif isinstance(module, nn.LayerNorm) or module in norms:
            nn.init.normal_(module.weight, 1, 0.1)
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.normal_(module.bias, std=0.1)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # keep the statistics of this one batch
    calibrate(model.train())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def live_align(seed: int = 0, **text) -> ReleasedAlign:
    """The oracle's recall network with live weights, whose image and text vectors point in all directions."""
    model = ReleasedAlign(**text)
    images = pictures(16, seed=seed)
    enliven(model, lambda module: module.image_model(images), seed)
    tokens = torch.randint(model.text_model.config.vocab_size, (64, 8), generator=torch.Generator().manual_seed(seed))
    model.image_hidden_layer.bias -= model.image_hidden_layer(model.image_model(images)).mean(0)
    model.text_hidden_layer.bias -= model.text_hidden_layer(model.text_model(tokens)[0][:, 0]).mean(0)
    return model


def released_file(model: ReleasedAlign) -> dict:
    """What align_model.pth holds: the tensors, leftovers of training and an older transformers, a numpy scalar."""
    positions = model.text_model.config.max_position_embeddings
    state = dict(model.state_dict())
    state["text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    state["relations_emb.weight"] = torch.randn(4, 100)
    state["linear_relation.weight"] = torch.randn(512, 100)
    state["linear_relation.bias"] = torch.randn(512)
    return {"state_dict": state, "epoch": 3, "min_loss": np.float64(0.4215)}


def main(argv=None) -> int:
    return run_script(__name__, argv, write_checkpoint)


def write_checkpoint(config) -> None:
    with replacing(Path(config.output_path)) as partial:
        torch.save(released_file(live_align(config.seed)), partial)
    print(f"wrote {config.output_path}")


if __name__ == "__main__":
    sys.exit(main())

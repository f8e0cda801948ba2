"""A ranking checkpoint with random weights that react to their input, in the released file's format.

python -m benchmarks.live_ranking --output-path /tmp/ranking.ckpt
"""

CONFIG = {
    "output_path": "ranking.ckpt",  # where the checkpoint goes
    "seed": 0,  # of the random weights
}

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.live_weights import enliven, live_align, released_file
from models.files import replacing
from models.ranking import RankingConfig, RankingModel
from models.script import run_script

TINY = {"image_width": 0.1, "image_depth": 0.1, "text_dim": 12, "text_layers": 1, "vocab_size": 5, "text_hidden": 8}


@torch.no_grad()
def live_head(dim: int = 512, seed: int = 0) -> dict[str, Tensor]:
    """The ranking model's own tensors, all but `align_model.`, under their released names.

    The units under Dice have scales from 1e-3 to 1, and Dice's statistics fit them: only then does its eps of 1e-9 make
    a difference to 1e-5, batch-norm's usual value.  Attention is strong enough to turn scores.
    """
    model = RankingModel(RankingConfig(embed_dim=dim, **TINY))

    def calibrate(module: RankingModel) -> None:
        images, texts = F.normalize(torch.randn(2, 64, dim), dim=-1)
        poi_images, poi_names = F.normalize(torch.randn(2, 64, 5, dim), dim=-1)
        module(images, texts, poi_images, poi_names, torch.full((64,), 5))

    enliven(model, calibrate, seed)
    below, dice, _, above = model.attention_layer.local_att.fc1.fc
    scale = torch.logspace(-3, 0, len(below.bias))
    below.weight.mul_(scale[:, None])
    below.bias.mul_(scale)
    dice.bn.running_mean.mul_(scale)
    dice.bn.running_var.mul_(scale**2)
    above.weight.div_(scale)
    model.linear2.weight.mul_(10)  # scores of about 1
    return {key: value for key, value in model.state_dict().items() if not key.startswith("align_model.")}


def released_ranking_file(align_state: dict[str, Tensor], head: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the released .ckpt holds: a bare state dict, with the recall model but for its knowledge graph's layers."""
    inside = {key: value for key, value in align_state.items() if "relation" not in key}
    return {f"align_model.{key}": value for key, value in inside.items()} | head


def main(argv=None) -> int:
    return run_script(__name__, argv, write_checkpoint)


def write_checkpoint(config) -> None:
    align = released_file(live_align(config.seed))["state_dict"]
    with replacing(Path(config.output_path)) as partial:
        torch.save(released_ranking_file(align, live_head(seed=config.seed)), partial)
    print(f"wrote {config.output_path}")


if __name__ == "__main__":
    sys.exit(main())

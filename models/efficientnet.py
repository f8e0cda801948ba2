"""EfficientNet-B3 as efficientnet_pytorch 0.7.1 computes it, built from torchvision's (Tan & Le, ICML 2019).

Both libraries hold the same tensors in the same order.  Three things differ, and each of them ruins the embedding
silently: the batch-norm constants, the padding of strided convolutions, and the tensors' names.
"""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.efficientnet import EfficientNet, MBConv, MBConvConfig
from torchvision.ops.misc import Conv2dNormActivation

# expansion, kernel, stride, input channels, output channels, blocks: EfficientNet-B0, Table 1 of the paper
B0_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
B3_WIDTH, B3_DEPTH = 1.2, 1.4
BATCH_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class TrailingPadConv2d(nn.Conv2d):
    """A convolution that pads one pixel at the right and the bottom only.

    That is TensorFlow's "same" padding for a 3×3 stride-2 convolution on an even input.  efficientnet_pytorch fixes it
    for the 300 pixels B3 was made for and keeps it at 224.  (Its 5×5 stride-2 convolutions pad 2 on every side.)
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (0, 1, 0, 1)))


def efficientnet(num_outputs: int, width: float = B3_WIDTH, depth: float = B3_DEPTH) -> EfficientNet:
    """An EfficientNet whose forward maps (B, 3, H, W) to (B, num_outputs); its state dict has the released names."""
    stages = [MBConvConfig(*stage, width_mult=width, depth_mult=depth) for stage in B0_STAGES]
    model = EfficientNet(stages, dropout=0.3, num_classes=num_outputs, norm_layer=BATCH_NORM)
    for layer in [module for module in model.modules() if isinstance(module, Conv2dNormActivation)]:
        conv = layer[0]
        if conv.kernel_size == (3, 3) and conv.stride == (2, 2):
            conv.__class__, conv.padding = TrailingPadConv2d, (0, 0)

    to_released = released_names(model)
    to_torchvision = {released: name for name, released in to_released.items()}
    model.register_state_dict_post_hook(lambda module, state, prefix, _: rename(state, prefix, to_released))
    model.register_load_state_dict_pre_hook(lambda module, state, prefix, *_: rename(state, prefix, to_torchvision))
    return model


def released_names(model: EfficientNet) -> dict[str, str]:
    """torchvision's name of every layer that holds tensors -> efficientnet_pytorch's name of it."""
    last = len(model.features) - 1
    names = {
        "features.0.0": "_conv_stem",
        "features.0.1": "_bn0",
        f"features.{last}.0": "_conv_head",
        f"features.{last}.1": "_bn1",
        "classifier.1": "_fc",
    }
    blocks = [(name, module) for name, module in model.named_modules() if isinstance(module, MBConv)]
    for number, (name, module) in enumerate(blocks):
        layers = ["expand"] * (len(module.block) == 4) + ["depthwise", "squeeze", "project"]
        for index, layer in enumerate(layers):
            ours, theirs = f"{name}.block.{index}", f"_blocks.{number}"
            if layer == "squeeze":
                names |= {f"{ours}.fc1": f"{theirs}._se_reduce", f"{ours}.fc2": f"{theirs}._se_expand"}
            else:
                norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[layer]
                names |= {f"{ours}.0": f"{theirs}._{layer}_conv", f"{ours}.1": f"{theirs}.{norm}"}
    return names


def rename(state: dict, prefix: str, names: dict[str, str]) -> None:
    """Rename, in place and in order, the tensors `{prefix}{layer}.{tensor}` of a state dict by their layer."""
    for key in list(state):
        layer, _, tensor = key.removeprefix(prefix).rpartition(".")
        renamed = f"{prefix}{names[layer]}.{tensor}" if key.startswith(prefix) and layer in names else key
        state[renamed] = state.pop(key)


def fold_batch_norm(model: EfficientNet) -> EfficientNet:
    """A copy for inference with each batch-norm folded into its convolution, channels last: equal to 1e-6, faster."""
    model = copy.deepcopy(model).eval()
    for layer in [module for module in model.modules() if isinstance(module, Conv2dNormActivation)]:
        conv, norm = layer[0], layer[1]
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        layer[1] = nn.Identity()
    return model.to(memory_format=torch.channels_last)

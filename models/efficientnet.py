"""EfficientNet (Tan & Le, ICML 2019) as efficientnet_pytorch 0.7.1 computes it, under its parameter names.

Written out here because torchvision's differs in what ruins an embedding silently, the batch-norm constants and the
padding of strided convolutions, and because importing torchvision takes as long as encoding fifty photographs.
"""

import copy
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
STOCHASTIC_DEPTH = 0.2  # of the last block; it grows from 0 at the first


class EfficientNet(nn.Module):
    """(B, 3, H, W) -> (B, num_outputs).  `width` and `depth` multiply B0's channels and blocks."""

    FOLDED = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))

    def __init__(self, num_outputs: int, width: float = B3_WIDTH, depth: float = B3_DEPTH):
        super().__init__()
        blocks = []  # arguments of each MBConv
        for expansion, kernel, stride, inputs, outputs, repeats in B0_STAGES:
            inputs, outputs = scaled(inputs, width), scaled(outputs, width)
            blocks.append((expansion, kernel, stride, inputs, outputs))
            blocks += [(expansion, kernel, 1, outputs, outputs)] * (math.ceil(repeats * depth) - 1)
        stem, last = blocks[0][3], blocks[-1][4]
        self._conv_stem, self._bn0 = convolution(3, stem, kernel=3, stride=2), BATCH_NORM(stem)
        self._blocks = nn.Sequential(
            *(MBConv(*block, STOCHASTIC_DEPTH * number / len(blocks)) for number, block in enumerate(blocks))
        )
        self._conv_head, self._bn1 = convolution(last, 4 * last, kernel=1), BATCH_NORM(4 * last)
        self._dropout = nn.Dropout(0.3)
        self._fc = nn.Linear(4 * last, num_outputs)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self._fc(self._dropout(self.features(images).mean((2, 3))))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / 32, W / 32)."""
        x = F.silu(self._bn0(self._conv_stem(images)), inplace=True)
        return F.silu(self._bn1(self._conv_head(self._blocks(x))), inplace=True)


class MBConv(nn.Module):
    """A mobile inverted bottleneck (Sandler et al., CVPR 2018) with squeeze-and-excitation (Hu et al., CVPR 2018)."""

    FOLDED = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))

    def __init__(self, expansion: int, kernel: int, stride: int, inputs: int, outputs: int, drop: float):
        super().__init__()
        inner, squeezed = inputs * expansion, max(1, inputs // 4)
        self.expands, self.residual = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = convolution(inputs, inner, kernel=1), BATCH_NORM(inner)
        self._depthwise_conv, self._bn1 = convolution(inner, inner, kernel, stride, groups=inner), BATCH_NORM(inner)
        self._se_reduce, self._se_expand = nn.Conv2d(inner, squeezed, 1), nn.Conv2d(squeezed, inner, 1)
        self._project_conv, self._bn2 = convolution(inner, outputs, kernel=1), BATCH_NORM(outputs)
        self.stochastic_depth = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = F.silu(self._bn0(self._expand_conv(y)), inplace=True)
        y = F.silu(self._bn1(self._depthwise_conv(y)), inplace=True)  # (B, inner, H/stride, W/stride)
        gates = F.silu(self._se_reduce(y.mean((2, 3), keepdim=True)), inplace=True)
        y = y * torch.sigmoid(self._se_expand(gates))  # gates: (B, inner, 1, 1)
        y = self._bn2(self._project_conv(y))
        if not self.residual:
            return y
        if self.training:  # leaves the whole block out for some images of the batch
            y = y * self.stochastic_depth(y.new_ones(len(y), 1, 1, 1))
        return x + y


class TrailingPadConv2d(nn.Conv2d):
    """A convolution that pads one pixel at the right and the bottom only.

    That is TensorFlow's "same" padding for a 3×3 stride-2 convolution on an even input.  efficientnet_pytorch fixes it
    for the 300 pixels B3 was made for and keeps it at 224.  (Its 5×5 stride-2 convolutions pad 2 on every side.)
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (0, 1, 0, 1)))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if (kernel, stride) == (3, 2):
        return TrailingPadConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def scaled(channels: int, width: float) -> int:
    """The nearest multiple of 8, but at least 8 and never less than 90 % of what is asked for."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """As the paper's code and torchvision have it: normal of variance 2 / fan-out; uniform for the last layer."""
    if not isinstance(module, nn.Conv2d | nn.Linear) or module.weight.is_meta:
        return
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    else:
        bound = module.out_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def fold_batch_norm(model: EfficientNet) -> EfficientNet:
    """A copy for inference with each batch-norm folded into its convolution, channels last: equal to 1e-6, faster."""
    model = copy.deepcopy(model).eval()
    for module in [module for module in model.modules() if isinstance(module, EfficientNet | MBConv)]:
        for conv, norm in module.FOLDED:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return model.to(memory_format=torch.channels_last)

"""Barlow Twins in PyTorch as published, which the benchmarks compare with.

The formulas are those of the official code (facebookresearch/barlowtwins, main.py), with its d×d
matrix, its view of the off-diagonal elements and its LARS; on one device, so without all-reduce.
"""

import collections
import math

import torch
from torch import nn

# Blocks of each stage, and whether they are bottlenecks.
DEPTHS = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}


def off_diagonal(matrix):
    """Returns all elements of a square matrix except its diagonal."""
    n = matrix.shape[0]
    return matrix.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()


def published_loss(za, zb, normalize, redundancy_weight=0.0051):
    """Returns the loss of two batches of embeddings.

    Args:
        za: float tensor (n, d).
        zb: float tensor (n, d).
        normalize: `torch.nn.BatchNorm1d(d, affine=False)` in training mode.
        redundancy_weight: float, λ.
    """
    c = normalize(za).T @ normalize(zb)
    c.div_(len(za))
    on_diagonal = torch.diagonal(c).add_(-1).pow_(2).sum()
    return on_diagonal + redundancy_weight * off_diagonal(c).pow_(2).sum()


class LARS(torch.optim.Optimizer):
    """Weight decay, trust ratio and momentum as published; only the momentum is in place."""

    def __init__(self, parameters, lr=0.2, weight_decay=1e-6, momentum=0.9, eta=0.001):
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self):
        """Updates every parameter."""
        for group in self.param_groups:
            for w in group["params"]:
                g = w.grad
                if w.ndim > 1:
                    g = g.add(w, alpha=group["weight_decay"])
                    w_norm, g_norm = torch.norm(w), torch.norm(g)
                    one = torch.ones_like(w_norm)
                    ratio = torch.where(g_norm > 0, group["eta"] * w_norm / g_norm, one)
                    g = g.mul(torch.where(w_norm > 0, ratio, one))
                state = self.state[w]
                if not state:
                    state["momentum"] = torch.zeros_like(w)
                state["momentum"].mul_(group["momentum"]).add_(g)
                w.add_(state["momentum"], alpha=-group["lr"])


def rate_at(step, steps, warmup_steps, peak):
    """Returns the learning rate at a step, see `adjust_learning_rate` of the published code."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    q = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))
    return peak * q + 0.001 * peak * (1 - q)


class Block(nn.Module):
    """A residual block of ResNet v1.5, basic or bottleneck, with torchvision's names."""

    def __init__(self, channels, filters, stride, bottleneck):
        super().__init__()
        expanded = 4 * filters if bottleneck else filters
        if bottleneck:
            sizes = [(channels, filters, 1, 1), (filters, filters, 3, stride)]
            sizes.append((filters, expanded, 1, 1))
        else:
            sizes = [(channels, filters, 3, stride), (filters, filters, 3, 1)]
        self.count = len(sizes)
        for i, (inputs, outputs, size, step) in enumerate(sizes, start=1):
            convolution = nn.Conv2d(inputs, outputs, size, step, size // 2, bias=False)
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"bn{i}", nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != expanded:
            convolution = nn.Conv2d(channels, expanded, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(expanded))

    def forward(self, x):
        """Returns the block's output for its input."""
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = self.relu(y) if i < self.count else y
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def resnet(blocks, bottleneck, stem, width=64):
    """Builds torchvision's ResNet, headless, with its names; "small": 3×3 stem without pooling."""
    large = stem == "imagenet"
    layers = {
        "conv1": nn.Conv2d(
            3, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False
        ),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, 2, 1) if large else nn.Identity(),
    }
    channels = width
    for stage, count in enumerate(blocks):
        filters, stage_blocks = width * 2**stage, []
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            stage_blocks.append(Block(channels, filters, stride, bottleneck))
            channels = 4 * filters if bottleneck else filters
        layers[f"layer{stage + 1}"] = nn.Sequential(*stage_blocks)
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(collections.OrderedDict(layers))


def initialize(backbone):
    """Draws weights as the published code does: torchvision's, `zero_init_residual=True`."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Block):
            nn.init.zeros_(getattr(module, f"bn{module.count}").weight)


def resnet_of(state):
    """Builds the ResNet of any depth that a state dict in torchvision's names is of, for inference.

    Args:
        state: dict from torchvision's names to tensors, without the classifier. A 3×3 `conv1`
            stands for the stem for small images.
    """
    names = {tuple(name.split(".")[:2]) for name in state if name.startswith("layer")}
    blocks = collections.Counter(stage for stage, _ in sorted(names)).values()
    width, _, size, _ = state["conv1.weight"].shape
    stem = "imagenet" if size == 7 else "small"
    model = resnet(blocks, "layer1.0.conv3.weight" in state, stem, width)
    model.load_state_dict(state)
    return model.eval()


class BarlowTwins(nn.Module):
    """The published model, in its names: (view_a, view_b) → loss, with two forward passes."""

    def __init__(self, backbone, widths, redundancy_weight=0.0051):
        super().__init__()
        self.backbone = backbone
        self.redundancy_weight = redundancy_weight
        channels = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
        sizes, layers = [channels, *widths], []
        for i in range(len(sizes) - 2):
            layers.append(nn.Linear(sizes[i], sizes[i + 1], bias=False))
            layers += [nn.BatchNorm1d(sizes[i + 1]), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(sizes[-2], sizes[-1], bias=False))
        self.projector = nn.Sequential(*layers)
        self.bn = nn.BatchNorm1d(sizes[-1], affine=False)

    def forward(self, view_a, view_b):
        """Returns the loss of two batches of views."""
        za, zb = (self.projector(self.backbone(view)) for view in (view_a, view_b))
        return published_loss(za, zb, self.bn, self.redundancy_weight)

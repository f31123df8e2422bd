"""A torchvision ResNet in PyTorch for inference, straight from its state dict."""

import torch
from torch.nn import functional

EPSILON = 1e-5


def features(state, images):
    """Computes the features of torchvision's ResNet of any depth, before its classifier.

    Args:
        state: dict from torchvision's names to tensors. A 3×3 `conv1` stands for a stem without
            stride or pooling.
        images: float tensor (b, 3, h, w).

    Returns:
        float tensor (b, d).
    """

    def convolution(name, x, stride=1):
        kernel = state[f"{name}.weight"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def normalization(name, x):
        of = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *of, eps=EPSILON)

    def block(name, x, stride):
        count = 3 if f"{name}.conv3.weight" in state else 2
        strided = count - 1  # the 3×3 convolution of a bottleneck, the first of a basic block
        y = x
        for i in range(1, count + 1):
            y = convolution(f"{name}.conv{i}", y, stride if i == strided else 1)
            y = normalization(f"{name}.bn{i}", y)
            y = torch.relu_(y) if i < count else y
        if f"{name}.downsample.0.weight" in state:
            x = convolution(f"{name}.downsample.0", x, stride)
            x = normalization(f"{name}.downsample.1", x)
        return torch.relu_(y.add_(x))

    large = state["conv1.weight"].shape[-1] == 7
    x = convolution("conv1", images, 2 if large else 1)
    x = torch.relu_(normalization("bn1", x))
    if large:
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
    blocks = dict.fromkeys(".".join(name.split(".")[:2]) for name in state if name[:5] == "layer")
    for name in blocks:
        stage, index = name.removeprefix("layer").split(".")
        x = block(name, x, 2 if stage > "1" and index == "0" else 1)
    return x.mean((2, 3))

"""Weights of PyTorch ResNets and of the published checkpoints, in and out.

`keras_bt.torch_weights.names` says which PyTorch tensor is which Keras variable. PyTorch's
`num_batches_tracked` is none: 0 is written, which PyTorch uses only if momentum is None.

The numbers are copied as they are, so a round trip is exact to the bit. That is right for
`running_var` too, although PyTorch averages unbiased variances there and Keras biased ones: in
inference both compute (x − mean) / √(variance + 1e-5) with the stored number.

Both sides normalize images in the same way, with ImageNet's mean and standard deviation
(`keras_bt.preprocessing.normalize`), so features can be compared.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_bt.model.barlow_twins import BarlowTwins
from keras_bt.model.barlow_twins import projector as new_projector
from keras_bt.resnet import STAGES, resnet
from keras_bt.torch_weights.files import listed
from keras_bt.torch_weights.names import (
    HEAD,
    account,
    assign,
    backbone_prefix,
    backbone_variables,
    counters,
    final_normalization,
    projector_variables,
    tensors,
    whole_names,
)


def backbone_of(state: Mapping[str, np.ndarray], drop_head: bool = False) -> keras.Model:
    """Builds the backbone that a state dict belongs to, with its weights.

    >>> state = state_dict(backbone)  # in practice, read_state_dict("resnet50.pth")
    >>> state["conv1.weight"].shape, backbone_of(state).output_shape
    ((2, 3, 3, 3), (None, 16))

    Args:
        state: Arrays by name: of a torchvision ResNet, or of a whole published checkpoint, from
            which the backbone is taken; either with or without "module." before each name.
        drop_head: Whether to leave out a classifier, `fc.weight` and `fc.bias`. Published backbones
            have none; torchvision's own do, and are refused without this.

    Returns:
        `keras_bt.resnet` of the depth, stem and width that the shapes reveal. A 3×3 `conv1` is
        taken for the "small" stem, with neither stride nor pooling, which is usual but not visible
        in the shapes.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; they are named.
    """
    backbone = resnet(**architecture(state))
    load_backbone(state, backbone, drop_head)
    return backbone


def projector_of(state: Mapping[str, np.ndarray]) -> keras.Model:
    """Builds the projector of a whole published checkpoint, with its weights.

    >>> state = state_dict(backbone, projector)  # in practice, read_state_dict("checkpoint.pth")
    >>> projector_of(state).output_shape
    (None, 8)

    Training can continue with `keras_bt.BarlowTwins(backbone_of(state), projector_of(state))`, the
    optimizer's momentum starting at zero.

    The last normalization of the published model, `bn`, is part of the objective here, which uses
    the batch statistics. The checkpoint's running statistics are not needed; they must have the
    right shape and are left out.

    Args:
        state: As for `backbone_of`, with `projector.*` and `bn.*`.

    Returns:
        `keras_bt.projector` of the widths that the shapes reveal.

    Raises:
        ValueError: there is no projector, or tensors are missing, unexpected or misshapen.
    """
    state = whole_names(state)
    kernels: list[np.ndarray] = []
    while f"projector.{3 * len(kernels)}.weight" in state:
        kernels.append(state[f"projector.{3 * len(kernels)}.weight"])
    if not kernels or any(kernel.ndim != 2 for kernel in kernels):
        raise ValueError(
            "There must be a projector: linear layers named projector.0.weight, "
            f"projector.3.weight, …. Received: {listed(list(state), 3)}."
        )
    head = new_projector([len(kernel) for kernel in kernels], kernels[0].shape[1])
    part = {name: x for name, x in state.items() if not name.startswith("backbone.")}
    assign(part, projector_variables(head), final_normalization(head))
    return head


def load_backbone(
    state: Mapping[str, np.ndarray], backbone: keras.Model, drop_head: bool = False
) -> None:
    """Loads the weights of a state dict into a backbone that has exactly those.

    >>> state = state_dict(backbone)
    >>> load_backbone(state, backbone)
    >>> del state["conv1.weight"]
    >>> load_backbone(state, backbone)
    Traceback (most recent call last):
        ...
    ValueError: The tensors must be exactly those of the network. Missing: conv1.weight.

    Args:
        state: As for `backbone_of`.
        backbone: A `keras_bt.resnet`.
        drop_head: As for `backbone_of`.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen. The backbone is as it was.
    """
    state = whole_names(state)
    prefix = backbone_prefix(state)
    left_out = [prefix + name for name in HEAD] if drop_head else []
    part = {
        name: x for name, x in state.items() if name.startswith(prefix) and name not in left_out
    }
    assign(part, backbone_variables(backbone, prefix))


def load_model(state: Mapping[str, np.ndarray], model: BarlowTwins) -> None:
    """Loads the weights of a whole published checkpoint into a model that has exactly those.

    Args:
        state: Arrays by name, `backbone.*`, `projector.*` and `bn.*`, with or without "module."
            before each name. For `bn` see `projector_of`.
        model: Of a `keras_bt.resnet` and a `keras_bt.projector`.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen. The model is as it was.
    """
    variables = backbone_variables(model.backbone, "backbone.")
    variables |= projector_variables(model.projector)
    assign(whole_names(state), variables, final_normalization(model.projector))


def state_dict(
    backbone: keras.Model, projector: keras.Model | None = None
) -> dict[str, np.ndarray]:
    """Returns a backbone's weights under torchvision's names.

    >>> state = state_dict(backbone)
    >>> list(state)[:3], state["conv1.weight"].shape  # (out, in, height, width)
    (['conv1.weight', 'bn1.weight', 'bn1.bias'], (2, 3, 3, 3))
    >>> keras_bt.torch_weights.write_state_dict("resnet18.safetensors", state)

    A `resnet50.pth` of the ImageNet stem and width 64 goes into torchvision's or timm's resnet50,
    once its `fc` is a `torch.nn.Identity()`: `network.load_state_dict(torch.load("resnet50.pth"))`.
    Other stems and widths need a network changed in the same way.

    Args:
        backbone: A `keras_bt.resnet`.
        projector: A `keras_bt.projector`, or None. With one, the names are those of the whole
            published model: `backbone.*`, `projector.*` and `bn.*`, the last as in a new model.

    Returns:
        Arrays by name: float32, or int64 for `num_batches_tracked`.

    Raises:
        ValueError: the models are of another kind.
    """
    plain = tensors(backbone_variables(backbone))
    expected = resnet(**architecture(plain))
    account(plain, backbone_variables(expected))
    _compare_layers(backbone, expected, "backbone", "keras_bt.resnet")
    state = plain
    if projector is not None:
        linear = sum(layer.name.startswith("linear") for layer in projector.layers)
        expected = new_projector([1] * max(linear, 1), input_dim=1)
        _compare_layers(projector, expected, "projector", "keras_bt.projector")
        state = {f"backbone.{name}": array for name, array in plain.items()}
        state |= tensors(projector_variables(projector))
        for name, shape in final_normalization(projector).items():
            state[name] = np.full(shape, float(name.endswith("var")), "float32")
    return state | {name: np.array(0, "int64") for name in counters(state)}


def _compare_layers(model, expected, role, kind):
    """Raises ValueError unless the layers agree: tensors alone do not show the connections."""

    def described(model):
        return [(layer.name, [v.name for v in layer.weights]) for layer in model.layers]

    if described(model) != described(expected):
        raise ValueError(
            f"The {role} must be a {kind}. Received: {model.name}, which has other layers."
        )


def architecture(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Infers from names and shapes which ResNet a state dict belongs to.

    >>> architecture(state_dict(backbone))
    {'depth': 18, 'stem': 'small', 'width': 2, 'input_shape': (None, None, 3)}

    Args:
        state: As for `backbone_of`.

    Returns:
        Arguments for `keras_bt.resnet`: depth, stem, width and input_shape.

    Raises:
        ValueError: the state dict belongs to no such ResNet.
    """
    state = whole_names(state)
    prefix = backbone_prefix(state)
    state = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    blocks = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    bottleneck = any(name.endswith(".conv3.weight") for name in state)
    depths: dict[object, int] = {stages: depth for depth, stages in STAGES.items()}
    depth = depths.get((blocks, bottleneck))
    conv1 = state.get("conv1.weight", np.zeros(0)).shape  # (width, channels, height, width)
    stem = {(7, 7): "imagenet", (3, 3): "small"}.get(conv1[2:])
    if depth is None or stem is None:
        received = listed(list(state), 3)
        if any(blocks):
            received = (
                f"stages of {'-'.join(map(str, blocks))} blocks with "
                f"{'three' if bottleneck else 'two'} convolutions each, "
                + (f"conv1.weight of shape {conv1}" if conv1 != (0,) else "no conv1.weight")
            )
        raise ValueError(
            f"The tensors must be those of a ResNet of depth {', '.join(map(str, STAGES))} with a "
            f"7×7 or 3×3 conv1, named as in torchvision. Received: {received or 'none'}."
        )
    return {
        "depth": depth,
        "stem": stem,
        "width": conv1[0],
        "input_shape": (None, None, conv1[1]),
    }

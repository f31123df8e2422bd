"""Weights of PyTorch's ResNets and of the published checkpoints, in and out.

    PyTorch                          Keras
    Conv2d.weight (O, I, H, W)       kernel (H, W, I, O)
    Linear.weight (O, I)             kernel (I, O)
    BatchNorm.weight, bias           gamma, beta
    BatchNorm.running_mean           moving_mean
    BatchNorm.running_var            moving_variance
    BatchNorm.num_batches_tracked    nothing: 0 is written; PyTorch uses it only without a momentum

The numbers are copied as they are, so going there and back changes no bit. That is right for
`running_var` too, although PyTorch adds up unbiased variances there and Keras biased ones: in
inference both compute (x − mean) / √(variance + 1e-5) with the number that is stored. The factor
n/(n − 1), n = images · height · width, is only in what later training adds to it.

The images that a network was trained on are normalized in the same way on both sides, with
ImageNet's mean and deviation (`keras_bt.data.normalize`), so features can be compared.

Names are those of torchvision, which timm's resnet18 to resnet152 share. detectron2 reads them by
way of its own script for torchvision's files, tools/convert-torchvision-to-d2.py.
"""

import numpy as np

from keras_bt.model.barlow_twins import projector as new_projector
from keras_bt.resnet import STAGES, resnet
from keras_bt.torch_weights.files import listed, read_state_dict, write_state_dict
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

__all__ = [
    "architecture",
    "backbone_of",
    "load_backbone",
    "load_model",
    "projector_of",
    "read_state_dict",
    "state_dict",
    "write_state_dict",
]


def backbone_of(state, drop_head=False):
    """Builds the backbone that a state dict belongs to, with its weights.

    >>> backbone = backbone_of(read_state_dict("resnet50.pth"))
    >>> backbone.output_shape
    (None, 2048)

    Args:
        state: dict from name to array: of a torchvision ResNet, or a whole published checkpoint,
            of which the backbone is taken; either with or without "module." before each name.
        drop_head: whether a classifier, `fc.weight` and `fc.bias`, is left out. Published
            backbones have none; torchvision's own do, and are refused without this.

    Returns:
        `keras_bt.resnet` of the depth, stem and width that the shapes tell. A 3×3 `conv1` is taken
        for the "small" stem, with neither stride nor pooling, as is usual but not to be seen.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; they are named.
    """
    backbone = resnet(**architecture(state))
    load_backbone(state, backbone, drop_head)
    return backbone


def projector_of(state):
    """Builds the projector of a whole published checkpoint, with its weights.

    Training can go on from there, with the optimizer's momentum starting at zero:

    >>> state = read_state_dict("checkpoint.pth")
    >>> model = keras_bt.BarlowTwins(backbone_of(state), projector_of(state))
    >>> model.compile(keras_bt.LARS(rate, bias_rate_ratio=0.024 / 16, weight_decay=1e-6))
    >>> model.fit(views)

    The last normalization of the published model, `bn`, belongs to the objective here, which uses
    statistics of the batch. The running ones in the checkpoint are needed by nobody; they must be
    of the right shape and are left out.

    Args:
        state: as for `backbone_of`, with `projector.*` and `bn.*`.

    Returns:
        `keras_bt.projector` of the widths that the shapes tell.

    Raises:
        ValueError: there is no projector, or tensors are missing, unexpected or misshapen.
    """
    state = whole_names(state)
    kernels = []
    while f"projector.{3 * len(kernels)}.weight" in state:
        kernels.append(state[f"projector.{3 * len(kernels)}.weight"])
    if not kernels or any(kernel.ndim != 2 for kernel in kernels):
        raise ValueError(
            "There must be a projector, linear layers with the names projector.0.weight, "
            f"projector.3.weight, …. Received: {listed(list(state), 3)}."
        )
    head = new_projector([len(kernel) for kernel in kernels], kernels[0].shape[1])
    part = {name: x for name, x in state.items() if not name.startswith("backbone.")}
    assign(part, projector_variables(head), final_normalization(head))
    return head


def load_backbone(state, backbone, drop_head=False):
    """Gives a backbone the weights of a state dict, if it has exactly those.

    Args:
        state: as for `backbone_of`.
        backbone: `keras_bt.resnet`.
        drop_head: as for `backbone_of`.

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


def load_model(state, model):
    """Gives a model the weights of a whole published checkpoint, if it has exactly those.

    Args:
        state: dict from name to array, `backbone.*`, `projector.*` and `bn.*`, with or without
            "module." before each name. For `bn` see `projector_of`.
        model: `keras_bt.BarlowTwins` of a `keras_bt.resnet` and a `keras_bt.projector`.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen. The model is as it was.
    """
    variables = backbone_variables(model.backbone, "backbone.")
    variables |= projector_variables(model.projector)
    assign(whole_names(state), variables, final_normalization(model.projector))


def state_dict(backbone, projector=None):
    """Returns a backbone's weights under torchvision's names.

    >>> write_state_dict("resnet50.pth", state_dict(backbone))

    and in PyTorch, with torchvision or with timm,

    >>> network = torchvision.models.resnet50()
    >>> network.fc = torch.nn.Identity()
    >>> network.load_state_dict(torch.load("resnet50.pth"))

    That takes the ImageNet stem and width 64; other ones need a network that is changed likewise.

    Args:
        backbone: `keras_bt.resnet`.
        projector: `keras_bt.projector`, or None. With one, the names are those of the whole
            published model: `backbone.*`, `projector.*` and `bn.*`, the last as in a new model.

    Returns:
        dict from name to NumPy array, float32, or int64 for `num_batches_tracked`.

    Raises:
        ValueError: for any other model.
    """
    plain = tensors(backbone_variables(backbone))
    expected = resnet(**architecture(plain))
    account(plain, backbone_variables(expected))
    _compare_layers(backbone, expected, "backbone", "keras_bt.resnet")
    if projector is None:
        return plain | _zeros(counters(plain))

    linear = sum(layer.name.startswith("linear") for layer in projector.layers)
    expected = new_projector([1] * max(linear, 1), input_dim=1)
    _compare_layers(projector, expected, "projector", "keras_bt.projector")
    state = {f"backbone.{name}": array for name, array in plain.items()}
    state |= tensors(projector_variables(projector))
    for name, shape in final_normalization(projector).items():
        state[name] = np.full(shape, float(name.endswith("var")), "float32")
    return state | _zeros(counters(state))


def _compare_layers(model, expected, role, kind):
    """Tensors do not show how layers are connected; the layers' names do, and where there are more.

    Raises:
        ValueError: the layers are not those expected.
    """

    def described(model):
        return [(layer.name, [v.name for v in layer.weights]) for layer in model.layers]

    if described(model) != described(expected):
        raise ValueError(
            f"The {role} must be a {kind}. Received: {model.name}, which has other layers."
        )


def _zeros(names):
    return {name: np.array(0, "int64") for name in names}


def architecture(state):
    """Reads from names and shapes which ResNet a state dict belongs to.

    Args:
        state: as for `backbone_of`.

    Returns:
        dict, arguments for `keras_bt.resnet`: depth, stem, width and input_shape.

    Raises:
        ValueError: it belongs to none.
    """
    state = whole_names(state)
    prefix = backbone_prefix(state)
    state = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    blocks = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    bottleneck = any(name.endswith(".conv3.weight") for name in state)
    depth = {stages: depth for depth, stages in STAGES.items()}.get((blocks, bottleneck))
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

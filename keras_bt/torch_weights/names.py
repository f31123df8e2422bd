"""Names and layouts: which PyTorch tensor is which Keras variable, and whether all are there."""

from collections.abc import Iterable, Mapping

import keras
import numpy as np

from keras_bt.torch_weights.files import listed

HEAD = ("fc.weight", "fc.bias")  # torchvision's classifier
_KINDS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# The permutation of the axes from one library's order to the other's, by the number of axes.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}  # HWIO to OIHW, IO to OI
_TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0)}


def whole_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes the "module." that DistributedDataParallel prepends to every name.

    >>> list(whole_names({"module.conv1.weight": np.zeros((4, 3, 7, 7))}))
    ['conv1.weight']

    Raises:
        ValueError: a whole checkpoint holds tensors that belong to no part of it.
    """
    state = dict(state)
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): array for name, array in state.items()}
    if backbone_prefix(state):
        parts = ("backbone.", "projector.", "bn.")
        unexpected = [name for name in state if not name.startswith(parts)]
        if unexpected:
            raise ValueError(
                "A whole checkpoint must hold backbone.*, projector.* and bn.*. "
                f"Unexpected: {listed(unexpected)}."
            )
    return state


def backbone_prefix(state: Iterable[str]) -> str:
    """Returns the prefix of the backbone's names: "backbone." in a whole checkpoint, else ""."""
    return "backbone." if any(name.startswith("backbone.") for name in state) else ""


def backbone_variables(backbone: keras.Model, prefix: str = "") -> dict[str, keras.Variable]:
    """Returns the variables of a `keras_bt.resnet` by their PyTorch names."""
    return _variables(backbone, lambda name: prefix + name.replace("_", "."))


def projector_variables(head: keras.Model) -> dict[str, keras.Variable]:
    """Returns the variables of a `keras_bt.projector` by their PyTorch names.

    >>> list(projector_variables(projector))
    ['projector.0.weight', 'projector.1.weight', ..., 'projector.3.weight']
    """
    # PyTorch numbers the layers of a Sequential: linear, normalization, ReLU, linear, …
    positions = {f"linear{k}": 3 * k - 3 for k in range(1, len(head.layers) + 1)}
    positions |= {f"bn{k}": 3 * k - 2 for k in range(1, len(head.layers) + 1)}
    return _variables(head, lambda name: f"projector.{positions.get(name, name)}")


def _variables(model, named):
    return {
        f"{named(layer.name)}.{_KINDS.get(variable.name, variable.name)}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def final_normalization(head: keras.Model) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of what the published model has after its projector, unlike ours.

    >>> final_normalization(projector)
    {'bn.running_mean': (8,), 'bn.running_var': (8,)}
    """
    return dict.fromkeys(("bn.running_mean", "bn.running_var"), head.output_shape[1:])


def counters(names: Iterable[str]) -> list[str]:
    """Returns the name of each normalization's `num_batches_tracked`.

    >>> counters(["bn1.running_mean", "bn1.running_var", "conv1.weight"])
    ['bn1.num_batches_tracked']
    """
    end = "running_var"
    return [name.removesuffix(end) + "num_batches_tracked" for name in names if name.endswith(end)]


def tensors(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Copies variables to float32 arrays in PyTorch's layout."""
    return {
        name: _transposed(keras.ops.convert_to_numpy(variable).astype("float32"), _TO_TORCH)
        for name, variable in variables.items()
    }


def assign(
    state: Mapping[str, np.ndarray],
    variables: Mapping[str, keras.Variable],
    unneeded: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Assigns the tensors to the variables, all or none; arguments as for `account`."""
    account(state, variables, unneeded)
    for name, variable in variables.items():
        variable.assign(_transposed(state[name], _TO_KERAS))


def account(
    state: Mapping[str, np.ndarray],
    variables: Mapping[str, keras.Variable],
    unneeded: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Checks that each tensor has its variable, and each variable its tensor.

    Args:
        state: Arrays by name.
        variables: Variables by name.
        unneeded: Shapes, by name, of tensors that may be present as well. Every normalization may
            have its `num_batches_tracked`.

    Raises:
        ValueError: tensors are missing, unexpected, misshapen or not floating; they are named.
    """
    expected = {
        name: tuple(variable.shape[axis] for axis in _axes(len(variable.shape), _TO_TORCH))
        for name, variable in variables.items()
    }
    known = {**expected, **(unneeded or {})}
    known |= dict.fromkeys(counters(known), ())
    wrong = {
        "Missing": [name for name in expected if name not in state],
        "Unexpected": [name for name in state if name not in known],
        "Misshapen": [
            f"{name} {array.shape} instead of {known[name]}"
            for name, array in state.items()
            if name in known and array.shape != known[name]
        ],
        "Not of a floating type": [
            f"{name} ({state[name].dtype})"
            for name in expected
            if name in state and state[name].dtype.kind != "f"
        ],
    }
    if any(wrong.values()):
        found = " ".join(f"{kind}: {listed(names)}." for kind, names in wrong.items() if names)
        if any(name.endswith(HEAD) for name in wrong["Unexpected"]):
            found += " fc is a classifier, which drop_head leaves out."
        raise ValueError(f"The tensors must be exactly those of the network. {found}")


def _axes(count, orders):
    return orders.get(count, tuple(range(count)))


def _transposed(array, orders):
    return np.transpose(array, _axes(array.ndim, orders))

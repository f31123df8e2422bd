"""Names and layouts: which PyTorch tensor is which Keras variable, and whether all are there."""

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
# Where each of Keras's axes is found in PyTorch's order, by the number of axes; and back.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}  # HWIO to OIHW, IO to OI
_TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0)}


def whole_names(state):
    """Removes the "module." that DistributedDataParallel puts before every name.

    Raises:
        ValueError: it is a whole checkpoint, and has tensors that belong to no part of it.
    """
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


def backbone_prefix(state):
    """What stands before the backbone's names: "backbone." in a whole checkpoint, or nothing."""
    return "backbone." if any(name.startswith("backbone.") for name in state) else ""


def backbone_variables(backbone, prefix=""):
    """The variables of a `keras_bt.resnet` by their names in PyTorch."""
    return _variables(backbone, lambda name: prefix + name.replace("_", "."))


def projector_variables(head):
    """The variables of a `keras_bt.projector` by their names in PyTorch."""
    # PyTorch counts the layers of a Sequential: linear, normalization, ReLU, linear, …
    positions = {f"linear{k}": 3 * k - 3 for k in range(1, len(head.layers) + 1)}
    positions |= {f"bn{k}": 3 * k - 2 for k in range(1, len(head.layers) + 1)}
    return _variables(head, lambda name: f"projector.{positions.get(name, name)}")


def _variables(model, named):
    return {
        f"{named(layer.name)}.{_KINDS.get(variable.name, variable.name)}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def final_normalization(head):
    """Names and shapes of what the published model has after its projector, and Keras has not."""
    return dict.fromkeys(("bn.running_mean", "bn.running_var"), head.output_shape[1:])


def counters(names):
    """The name of each normalization's `num_batches_tracked`."""
    end = "running_var"
    return [name.removesuffix(end) + "num_batches_tracked" for name in names if name.endswith(end)]


def tensors(variables):
    """Copies variables to float32 arrays in PyTorch's layout."""
    return {
        name: _transposed(keras.ops.convert_to_numpy(variable).astype("float32"), _TO_TORCH)
        for name, variable in variables.items()
    }


def assign(state, variables, unneeded=None):
    """Gives variables the values of tensors, if all can be: arguments as for `account`."""
    account(state, variables, unneeded)
    for name, variable in variables.items():
        variable.assign(_transposed(state[name], _TO_KERAS))


def account(state, variables, unneeded=None):
    """Checks that each tensor has its variable, and each variable its tensor.

    Args:
        state: dict from name to array.
        variables: dict from name to Keras variable.
        unneeded: dict from name to shape, of tensors that may be there besides. Every
            normalization may have its `num_batches_tracked`.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; they are named.
    """
    expected = {
        name: tuple(variable.shape[axis] for axis in _axes(len(variable.shape), _TO_TORCH))
        for name, variable in variables.items()
    }
    known = expected | (unneeded or {})
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
        raise ValueError(f"The tensors must be those of the network, all and no others. {found}")


def _axes(count, orders):
    return orders.get(count, tuple(range(count)))


def _transposed(array, orders):
    return np.transpose(array, _axes(array.ndim, orders))

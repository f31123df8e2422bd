"""Files of PyTorch tensors: state dicts in `.pth` and `.safetensors`, read without running code.

Only `.pth` files need PyTorch, which is an extra of this project: `pip install "keras_bt[torch]"`.
"""

import argparse
import pathlib
import re
import warnings

import numpy as np
import safetensors
import safetensors.numpy

from keras_bt.files import whole

PICKLED = (".pth", ".pt", ".tar")
ENDINGS = (*PICKLED, ".safetensors")


def read_state_dict(path):
    """Reads the tensors of a file.

    Of a checkpoint, a dict with the tensors under "model" or "state_dict", only those are taken;
    epoch, optimizer and the like are left where they are.

    A `.pth` file is a pickle, which can name any function to be called on reading. Here it is read
    with `torch.load(weights_only=True)`, which makes tensors and plain containers and refuses the
    rest. Two harmless names are let through, because official checkpoints hold them: the
    optimizer's settings refer to a function of the training script, `exclude_bias_and_norm`, in
    whose place a function that does nothing is put; and `argparse.Namespace`.

    Args:
        path: `.pth`, `.pt` or `.tar`, as written by `torch.save`, or `.safetensors`.

    Returns:
        dict from name to NumPy array: float32 for every floating type, other types as they are.

    Raises:
        ValueError: there is no such file, it is damaged, is no such file at all, or holds objects
            other than tensors.
    """
    path = pathlib.Path(path)
    check_ending(path)
    if not path.is_file():
        raise ValueError(f"A file of PyTorch tensors is needed. Received: {path}, which is none.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    torch = _import_torch(path)
    content = _unpickle(torch, path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path} must hold a state dict, tensors by their names. "
            f"Received: {type(content).__name__}{' without any' if content == {} else ''}."
        )
    others = [str(name) for name, value in content.items() if not torch.is_tensor(value)]
    if others:
        raise ValueError(
            f"{path} must hold tensors by their names, or such a dict under "
            f'"model" or "state_dict". Received: {listed(others)}, which are no tensors.'
        )
    return {
        str(name): (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in content.items()
    }


def write_state_dict(path, state):
    """Writes tensors to a file, whole or not at all.

    Args:
        path: `.pth`, `.pt` or `.tar`, which `torch.load` reads, and for which PyTorch is needed;
            or `.safetensors`, which `safetensors.torch.load_file` reads, and for which it is not.
        state: dict from name to NumPy array.

    Raises:
        ValueError: for another ending, or if PyTorch is needed and missing.
        OSError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    check_ending(path)
    torch = None if path.suffix == ".safetensors" else _import_torch(path)
    # The order of the axes has been changed without moving the numbers; files want them in a row.
    state = {name: np.array(array, order="C") for name, array in state.items()}
    with whole(path) as partial, partial.open("wb") as file:
        if torch is None:
            file.write(safetensors.numpy.save(state, metadata={"format": "pt"}))
        else:
            torch.save({name: torch.from_numpy(array) for name, array in state.items()}, file)


def check_ending(path):
    """Raises ValueError unless the path ends as files of PyTorch tensors do."""
    if pathlib.Path(path).suffix not in ENDINGS:
        raise ValueError(
            f"A file of PyTorch tensors must end in {', '.join(ENDINGS)}. Received: {path}."
        )


def listed(names, most=10):
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _import_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f'{path.suffix} files need PyTorch: pip install "keras_bt[torch]", or use '
            f".safetensors. Received: {path}."
        ) from error
    return torch


def _unpickle(torch, path):
    def exclude_bias_and_norm(*_):
        """What official checkpoints refer to; called by nobody, and it would do nothing."""

    exclude_bias_and_norm.__module__ = "__main__"
    exclude_bias_and_norm.__qualname__ = "exclude_bias_and_norm"
    harmless = [exclude_bias_and_norm, argparse.Namespace]
    path.open("rb").close()  # raises what is to be said of a file that may not be read
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
            warnings.simplefilter("ignore")  # on unusual pickles; they can be read, or they cannot
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # nearly anything, for a file that is not one
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise ValueError(
                f"{path} must hold tensors only. Received: {found[1]}, which is refused, because "
                "reading such objects can run code. Where the file comes from, save the tensors "
                "alone: torch.save(model.state_dict(), path)."
            ) from error
        raise ValueError(
            f"{path} must be a file of tensors as torch.save writes it. It is damaged, cut short, "
            f"or something else, which is not read for safety ({_reason(error)})."
        ) from error


def _read_safetensors(path):
    path.open("rb").close()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # SafetensorError; TypeError for types that NumPy lacks
        raise ValueError(
            f"{path} must be a safetensors file. It is damaged, cut short, or something else "
            f"({_reason(error)})."
        ) from error
    return {
        name: array if array.dtype.kind in "biu" else array.astype("float32")
        for name, array in state.items()
    }


def _reason(error):
    """What a library says of a file, its first sentence."""
    return re.split(r"\. |\n", f"{type(error).__name__}: {error}")[0].strip(" .:")

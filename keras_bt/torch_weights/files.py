"""Files of PyTorch tensors: state dicts in `.pth` and `.safetensors`, read without running code.

Only `.pth` files need PyTorch, an extra of this project: `pip install "keras_bt[torch]"`.
"""

import argparse
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import safetensors
import safetensors.numpy

from keras_bt.files import whole
from keras_bt.messages import first_line
from keras_bt.typing import Path

PICKLED = (".pth", ".pt", ".tar")
ENDINGS = (*PICKLED, ".safetensors")


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file.

    From a checkpoint, a dict with the tensors under "model" or "state_dict", only those are read;
    epoch, optimizer and the like are ignored.

    A `.pth` file is a pickle, which can call any function it names when it is read. Here it is read
    with `torch.load(weights_only=True)`, which builds tensors and plain containers and refuses
    everything else. Two harmless names are allowed, because official checkpoints contain them:
    `argparse.Namespace`, and a function of the training script that the optimizer's settings refer
    to, `exclude_bias_and_norm`, which is replaced by one that does nothing.

    >>> write_state_dict("linear.safetensors", {"weight": np.ones((2, 3), "float16")})
    >>> read_state_dict("linear.safetensors")
    {'weight': array([[1., 1., 1.], [1., 1., 1.]], dtype=float32)}

    Args:
        path: `.pth`, `.pt` or `.tar`, as written by `torch.save`, or `.safetensors`.

    Returns:
        Arrays by name: float32 for every floating type, other types as they are.

    Raises:
        ValueError: the file does not exist, is damaged, is of another kind, or holds objects other
            than tensors.
    """
    path = pathlib.Path(path)
    check_ending(path)
    if not path.is_file():
        raise ValueError(
            f"A file of PyTorch tensors is needed. Received: {path}, which is not a file."
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    torch = _import_torch(path)
    content = _unpickle(torch, path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path} must hold a state dict, tensors by name. "
            f"Received: {type(content).__name__}{' without any' if content == {} else ''}."
        )
    others = [str(name) for name, value in content.items() if not torch.is_tensor(value)]
    if others:
        raise ValueError(
            f"{path} must hold tensors by name, or such a dict under "
            f'"model" or "state_dict". Received: {listed(others)}, which are not tensors.'
        )
    return {
        str(name): (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in content.items()
    }


def write_state_dict(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes tensors to a file, whole or not at all.

    >>> write_state_dict("linear.safetensors", {"weight": np.eye(2), "bias": np.zeros(2)})
    >>> sorted(read_state_dict("linear.safetensors"))
    ['bias', 'weight']

    Args:
        path: `.pth`, `.pt` or `.tar`, read by `torch.load`, which needs PyTorch to write; or
            `.safetensors`, read by `safetensors.torch.load_file`, which does not.
        state: Arrays by name.

    Raises:
        ValueError: another ending, or PyTorch is needed and missing.
        OSError: the file cannot be written.
    """
    path = pathlib.Path(path)
    check_ending(path)
    torch = None if path.suffix == ".safetensors" else _import_torch(path)
    # Transposed arrays are views, but the files need contiguous memory.
    state = {name: np.array(array, order="C") for name, array in state.items()}
    with whole(path) as partial, partial.open("wb") as file:
        if torch is None:
            file.write(safetensors.numpy.save(state, metadata={"format": "pt"}))
        else:
            torch.save({name: torch.from_numpy(array) for name, array in state.items()}, file)


def check_ending(path: Path) -> None:
    """Raises ValueError unless the path has an ending of files of PyTorch tensors."""
    if pathlib.Path(path).suffix not in ENDINGS:
        raise ValueError(
            f"A file of PyTorch tensors must end in {', '.join(ENDINGS)}. Received: {path}."
        )


def listed(names: Sequence[str], most: int = 10) -> str:
    """Lists the first names and says how many more there are.

    >>> listed(["conv1", "bn1", "fc"], most=2)
    'conv1, bn1 and 1 more'
    """
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
        """Stands for the function that official checkpoints name; nothing calls it."""

    exclude_bias_and_norm.__module__ = "__main__"
    exclude_bias_and_norm.__qualname__ = "exclude_bias_and_norm"
    harmless = [exclude_bias_and_norm, argparse.Namespace]
    path.open("rb").close()  # raises the clear error for a file that may not be read
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
            warnings.simplefilter("ignore")  # unusual pickles are read or refused anyway
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load raises nearly anything for other files
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise ValueError(
                f"{path} must hold tensors only. Received: {found[1]}, which is refused, because "
                "reading such objects can run code. Where the file was made, save only the "
                "tensors: torch.save(model.state_dict(), path)."
            ) from error
        raise ValueError(
            f"{path} must be a file of tensors as torch.save writes it. It is damaged, truncated, "
            f"or of another kind, which is not read for safety ({_reason(error)})."
        ) from error


def _read_safetensors(path):
    path.open("rb").close()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # SafetensorError; TypeError for types that NumPy lacks
        raise ValueError(
            f"{path} must be a safetensors file. It is damaged, truncated, or of another kind "
            f"({_reason(error)})."
        ) from error
    return {
        name: array if array.dtype.kind in "biu" else array.astype("float32")
        for name, array in state.items()
    }


def _reason(error):
    """Returns the first sentence: more may be advice to read the file unsafely."""
    return first_line(error).partition(". ")[0].strip(" .:")

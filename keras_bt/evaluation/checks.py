"""What the measures ask of features and labels, told in one line before any time is spent."""

import numpy as np

_ROWS = 4096  # at a time: isfinite of all features would need another quarter of their memory


def checked_features(**named: np.ndarray) -> list[np.ndarray]:
    """Checks features that belong together, given by the names of the caller's arguments.

    Args:
        **named: floats (number, d); may be memory-mapped.

    Returns:
        The same as arrays.

    Raises:
        ValueError: if a shape does not fit, widths differ, or a feature is not finite.
    """
    arrays = {name: np.asarray(features) for name, features in named.items()}
    for name, features in arrays.items():
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(
                f"{name} must have shape (number, d), neither being 0. "
                f"Received: shape {features.shape}."
            )
    widths = [features.shape[1] for features in arrays.values()]
    if len(set(widths)) > 1:
        raise ValueError(
            f"{' and '.join(arrays)} must have the same width. "
            f"Received: widths {' and '.join(map(str, widths))}."
        )
    for name, features in arrays.items():
        for start in range(0, len(features), _ROWS):
            finite = np.isfinite(features[start : start + _ROWS]).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise ValueError(f"{name} must be finite. Received: NaN or infinity in row {row}.")
    return list(arrays.values())


def checked_labels(labels: np.ndarray | None, n: int, name: str) -> np.ndarray:
    """Checks labels that hold one class per feature; those to train with, at least two classes.

    Args:
        labels: integers (n,).
        n: number of features.
        name: "train_labels" or "test_labels".

    Returns:
        The same as an array.

    Raises:
        ValueError: if labels are missing, their shape does not fit, or those to train with are all
            of one class.
    """
    if labels is None or np.shape(labels) != (n,):
        received = "no labels" if labels is None else f"labels of shape {np.shape(labels)}"
        raise ValueError(f"{name} must hold one class per feature ({n}). Received: {received}.")
    labels = np.asarray(labels)
    if name == "train_labels" and labels.min() == labels.max():
        raise ValueError(
            f"{name} must hold at least two classes. Received: only class {labels.min()}."
        )
    return labels

"""Files of features for other programs: NumPy's .npz, .csv and .parquet."""

import csv
import pathlib

import numpy as np

from keras_bt.files import whole

_ROWS = 1024  # written at once


def writer(out):
    """Returns the function that writes files with the ending of `out`.

    It takes a path, a `trainers.runs.collection.Collection` and float32 (n, d), and writes the
    file whole or not at all.

    Raises:
        ValueError: if the ending is .parquet and pyarrow is missing.
    """
    ending = pathlib.Path(out).suffix.lower()
    if ending == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"--out=….parquet needs pyarrow: pip install pyarrow. Received: {error}."
            ) from error
    return {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}[ending]


def _write_npz(out, collection, features):
    arrays = {
        "features": features,
        "names": np.array(collection.names),
        "splits": np.array(collection.splits),
    }
    if collection.labels is not None:
        arrays["labels"] = collection.labels
        arrays["class_names"] = np.array(collection.class_names)
    with whole(out) as partial, open(partial, "wb") as file:  # NumPy would add to a name in .NPZ
        np.savez(file, **arrays)  # the partial one


def _write_csv(out, collection, features):
    header, labels = ["path", "split"], [[] for _ in collection.names]
    if collection.labels is not None:
        if collection.labels.ndim == 1:
            header.append("label")
            labels = [[name or ""] for name in _class_of_each(collection)]
        else:  # of -1 nothing is known
            header += [f"label {name}" for name in collection.class_names]
            labels = np.where(collection.labels < 0, "", collection.labels.astype(str)).tolist()
    header += [f"feature_{number}" for number in range(features.shape[1])]
    with whole(out) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        rows = zip(collection.names, collection.splits, labels, _rows(features), strict=True)
        for name, split, label, row in rows:
            # Nine digits are those of float32.
            table.writerow([name, split, *label, *map("{:.9g}".format, row.tolist())])


def _write_parquet(out, collection, features):
    import pyarrow as arrow
    from pyarrow import parquet

    columns = {"path": collection.names, "split": collection.splits}
    types = {"path": arrow.string(), "split": arrow.string()}
    if collection.labels is not None:
        several = collection.labels.ndim == 2
        columns["label"] = _classes_of_each(collection) if several else _class_of_each(collection)
        types["label"] = arrow.list_(arrow.string()) if several else arrow.string()
    width = features.shape[1]
    types["features"] = arrow.list_(arrow.float32(), width)
    schema = arrow.schema(types)
    with whole(out) as partial, parquet.ParquetWriter(partial, schema) as file:
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            arrays = [arrow.array(values[rows], types[name]) for name, values in columns.items()]
            flat = arrow.array(np.ascontiguousarray(features[rows]).ravel())
            arrays.append(arrow.FixedSizeListArray.from_arrays(flat, width))
            file.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def _class_of_each(collection):
    """Returns the name of each image's class, None where it is unknown."""
    return [collection.class_names[c] if c >= 0 else None for c in collection.labels.tolist()]


def _classes_of_each(collection):
    """Returns the names of the classes that each image is known to show."""
    names = collection.class_names
    return [[names[c] for c in np.flatnonzero(row == 1)] for row in collection.labels]


def _rows(features):
    for start in range(0, len(features), _ROWS):
        yield from features[start : start + _ROWS]

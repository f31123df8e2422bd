"""Which features of a TensorFlow data set hold its images and its labels."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from keras_bt.data.decoding import DataError

_CLASS, _CLASSES, _INTEGER = "class", "list of classes", "integer"
_ANY = np.zeros(0, np.int64)


class Features(NamedTuple):
    """The features of a data set that are read.

    Attributes:
        image: name of the one that holds the images.
        labels: names of those that hold labels; the second, if any, lists the classes that count.
        class_names: one name per class, or None without labels.
        values: of integer labels, int64 (classes,), sorted, or empty if not yet known; None of
            others.
        multilabel: whether labels are lists of classes.
        remarks: what the user should know about the choice.
    """

    image: str
    labels: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    values: np.ndarray | None = None
    multilabel: bool = False
    remarks: tuple[str, ...] = ()

    def unlabelled(self, *remarks: str) -> "Features":
        """Returns the same without labels, and with more remarks."""
        return Features(self.image, remarks=(*self.remarks, *remarks))

    def as_they_are(self) -> "Features":
        """Returns the same with integer labels that are read as the integers they are."""
        return self._replace(values=_ANY)


def chosen_features(
    builder: Any, image_feature: str | None = None, label_feature: str | None = None
) -> Features:
    """Chooses the features that hold images and labels, see `open_tfds`.

    If there is `labels_no_difficult` beside `labels`, as in PASCAL VOC, it lists the classes of
    which the image shows an object that is not marked as difficult. Classes in the first list
    alone do not count: finding them is neither right nor wrong (VOC2007 devkit, "difficult" in the
    image sets).

    Raises:
        DataError: if there is none that can be read, several might be meant, or there is no such
            feature.
    """
    features = builder.info.features
    all_of_it = f"tfds:{builder.info.full_name}, which has {_described(features)}"
    image = _chosen_image(features, image_feature, all_of_it)
    remarks = []
    if image != "image" and not image_feature:
        remarks.append(f"The images are those of the feature {image}.")
    kinds = {name: kind for name in sorted(features) if (kind := _label_kind(features[name]))}
    if label_feature and label_feature not in kinds:
        raise DataError(
            "--label_feature must name a class, a list of classes or an integer. "
            f"Received: --label_feature={label_feature} for {all_of_it}."
        )
    classes = [name for name in kinds if kinds[name] != _INTEGER]
    if label_feature:
        label = label_feature
    elif kinds.get("label") == _CLASS:
        label = "label"
    elif kinds.get("labels") == _CLASSES:
        label = "labels"
    elif "label" in kinds:
        label = "label"
    elif len(classes) == 1:
        (label,) = classes
        remarks.append(f"The labels are those of the feature {label}.")
    else:
        if classes:
            remarks.append(f"No labels are read: --label_feature={' or '.join(classes)} would be.")
        elif named := [name for name in ("label", "labels") if name in features]:
            remarks.append(f"No labels are read: {_described(features, named)} is no class.")
        return Features(image, remarks=tuple(remarks))
    labels = [label]
    if label == "labels" and kinds.get("labels_no_difficult") == kinds["labels"] == _CLASSES:
        labels.append("labels_no_difficult")
    kind, feature = kinds[label], features[label]
    names = () if kind == _INTEGER else (feature.feature if kind == _CLASSES else feature).names
    return Features(
        image,
        tuple(labels),
        tuple(names),
        _ANY if kind == _INTEGER else None,
        kind == _CLASSES,
        tuple(remarks),
    )


def _chosen_image(features, wanted, all_of_it):
    types = {
        name: np.dtype(feature.np_dtype)
        for name, feature in sorted(features.items())
        if isinstance(feature, tfds.features.Image)
    }
    readable = [name for name in types if types[name] in (np.uint8, np.uint16)]
    if wanted and wanted not in types:
        raise DataError(
            "--image_feature must name an image. "
            f"Received: --image_feature={wanted} for {all_of_it}."
        )
    if not types:
        raise DataError(f"The data set must have an image in every example. Received: {all_of_it}.")
    names = [wanted] if wanted else ["image"] if "image" in types else readable or list(types)
    if len(names) > 1:
        raise DataError(
            f"--image_feature must say which of the images are meant: {' or '.join(names)}. "
            f"Received: {all_of_it}."
        )
    if names[0] not in readable:
        raise DataError(
            "Images must be uint8 or uint16: choose others by --image_feature, or convert them and "
            f"use npz:FILE. Received: {types[names[0]]} images {names[0]} of {all_of_it}."
        )
    return names[0]


def _label_kind(feature):
    if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes is not None:
        return _CLASS
    if isinstance(feature, tfds.features.Sequence):
        return _CLASSES if _label_kind(feature.feature) == _CLASS else None
    integer = isinstance(feature, tfds.features.Tensor) and feature.shape == ()
    return _INTEGER if integer and np.dtype(feature.np_dtype).kind in "iub" else None


def _described(features, names=None):
    """Lists features, by default all, as in `image (Image uint8), label (ClassLabel)`."""

    def type_of(feature):
        if isinstance(feature, tfds.features.Sequence):
            return f"Sequence of {type_of(feature.feature)}"
        plain = isinstance(feature, (tfds.features.Image, tfds.features.Tensor))
        named = isinstance(feature, (tfds.features.ClassLabel, tfds.features.Text))
        kind = type(feature).__name__
        return f"{kind} {np.dtype(feature.np_dtype)}" if plain and not named else kind

    return ", ".join(f"{name} ({type_of(features[name])})" for name in names or sorted(features))

"""The label of an example of TensorFlow Datasets: one class, or a list of classes."""

import dataclasses
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class TfdsLabels:
    """Which features of a data set hold the labels, and how to read them.

    - `label`, a class: one label per image.
    - `labels`, a list of classes: several labels per image. Where there is `labels_no_difficult`
      too, as in PASCAL VOC, it lists the classes of which the image shows an object that is not
      marked as difficult. Those in the first list alone are not to be counted: whoever finds
      them is neither right nor wrong (VOC2007 devkit, "difficult" in the image sets).

    Attributes:
        features: Those to be read, by name.
        class_names: One name per class.
        multilabel: Whether there are several labels per image.
    """

    features: dict[str, Any]
    class_names: tuple[str, ...]
    multilabel: bool

    @classmethod
    def of(cls, features) -> "TfdsLabels | None":
        """Those of a data set with these features, or None if it has no labels."""
        import tensorflow_datasets as tfds

        one, several = features.get("label"), features.get("labels")
        if isinstance(one, tfds.features.ClassLabel):
            return cls({"label": one}, tuple(one.names), multilabel=False)
        if isinstance(several, tfds.features.Sequence) and isinstance(
            several.feature, tfds.features.ClassLabel
        ):
            names = [name for name in ("labels", "labels_no_difficult") if name in features]
            used = {name: features[name] for name in names}
            return cls(used, tuple(several.feature.names), multilabel=True)
        return None

    def read(self, example):
        """The label of an example, inside a `tf.data` function.

        Args:
            example: The features by name.

        Returns:
            int64 scalar; if `multilabel` int64 (classes,): 1 present, 0 absent, -1 not to be
            counted.
        """
        if not self.multilabel:
            return example["label"]
        present, *counted = (self._among(example[name]) for name in self.features)
        label = tf.cast(present, tf.int64)
        if not counted:
            return label
        return tf.where(present & ~counted[0], tf.constant(-1, tf.int64), label)

    def _among(self, listed):
        """For every class whether it is listed: int64 (k,) → bool (classes,)."""
        each = tf.one_hot(listed, len(self.class_names), True, False, dtype=tf.bool)
        return tf.reduce_any(each, axis=0)

    def withheld(self, labels) -> bool:
        """Whether labels are kept secret, as in the tests of challenges.

        They are -1 then, or, of several per image, all lists are empty.

        Args:
            labels: int64 (n,) or (n, classes), of some examples.
        """
        return not labels.any() if self.multilabel else bool(labels[0] < 0)

"""Tiny data sets of TensorFlow Datasets, of any features."""

import tensorflow_datasets as tfds


def builder(data_dir, name, features, splits):
    """Makes the builder of a data set, which is not prepared yet.

    Args:
        data_dir: pathlib.Path, to be given to tfds.
        name: name of the data set, in lower case.
        features: features of `tfds.features` by name.
        splits: for each split a list of examples.

    Returns:
        `tfds.core.GeneratorBasedBuilder`.
    """

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def generators(self, _):
        return {split: enumerate(examples) for split, examples in splits.items()}

    parts = {
        "name": name,
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": generators,
        "_generate_examples": None,
    }
    bases = (tfds.core.GeneratorBasedBuilder,)
    made = type(bases[0])(name, bases, parts, skip_registration=True)
    return made(data_dir=data_dir)


def prepare(*arguments):
    """Prepares a data set as tfds does; takes what `builder` does."""
    builder(*arguments).download_and_prepare()

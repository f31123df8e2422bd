"""What is read of data sets of TensorFlow Datasets, said about it, or refused."""

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_tfds
from numbered_images import png
from PIL import Image

from keras_bt.data import evaluation_batches, remarks
from keras_bt.data.decoding import DataError, Decoding
from keras_bt.data.specs import open_source

F = tfds.features
PNG, CLASS, TAGS = (
    F.Image(),
    F.ClassLabel(names=["cat", "dog"]),
    F.Sequence(F.ClassLabel(num_classes=3)),
)
INTEGER = F.Scalar(np.int64)
FLOAT = F.Image(shape=(None, None, 1), dtype=np.float32)
FLOATS = np.ones((3, 4, 1), np.float32)


def image(n):
    return png(10 * n, (5, 4))


def of(count=4, **features):
    """Examples with features that are functions of the number of the example."""
    return [{name: of_n(n) for name, of_n in features.items()} for n in range(count)]


class Row(NamedTuple):
    features: dict
    splits: dict
    options: Mapping = MappingProxyType({})
    error: str = ""
    pixels: tuple = (0, 10, 20, 30)
    labels: list | None = None  # in the order of the pixels
    classes: tuple | None = None
    test: tuple | None = None  # its split and its labels
    said: str = ""
    split: str = ""


def one(n):
    return 1


def parity(n):
    return n % 2


def gif(n):
    frames = [Image.new("RGB", (5, 4), (10 * n + more,) * 3) for more in (0, 100)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


LABELLED = of(image=image, label=parity)
SECRET = of(image=image, label=lambda n: -1)
IN_TWO = {"labels": [0, 1, 0, 1], "classes": ("cat", "dog")}
YEARS = {"image": PNG, "label": INTEGER}
TWO_IMAGES = {"left": PNG, "right": PNG}
BOTH = of(left=image, right=lambda n: image(n + 1))
SHAPES = {"image": PNG, "shape": CLASS, "size": F.ClassLabel(num_classes=3)}
SHAPED = of(image=image, shape=parity, size=lambda n: n % 3)

ROWS = {
    "plain": Row(
        {"image": PNG, "label": CLASS},
        {"train": LABELLED, "test": LABELLED[:2]},
        **IN_TWO,
        test=("test", [0, 1]),
    ),
    "no labels": Row(
        {"image": PNG}, {"train": of(image=image), "test": of(2, image=image)}, test=("test", None)
    ),
    "other image": Row(
        {"photo": PNG},
        {"train": of(photo=image)},
        said="The images are those of the feature photo.",
    ),
    "two images": Row(
        TWO_IMAGES,
        {"train": BOTH},
        error="--image_feature must say .*: left or right.*left .Image uint8",
    ),
    "the right one": Row(
        TWO_IMAGES, {"train": BOTH}, {"image_feature": "right"}, pixels=(10, 20, 30, 40)
    ),
    "no such image": Row(
        TWO_IMAGES,
        {"train": BOTH},
        {"image_feature": "middle"},
        error="--image_feature=middle for tfds:.*has left .Image uint8., right",
    ),
    "not an image": Row(
        {"image": PNG, "label": CLASS},
        {"train": LABELLED},
        {"image_feature": "label"},
        "must name an image",
    ),
    "image and mask": Row(
        {"image": PNG, "mask": F.LabeledImage(labels=2), "label": CLASS},
        {"train": of(image=image, mask=lambda n: np.zeros((4, 5, 1), np.uint8), label=parity)},
        **IN_TWO,
    ),
    "floats": Row(
        {"image": FLOAT},
        {"train": of(image=lambda n: FLOATS)},
        error="uint8 or uint16: .*npz:FILE.*Received: float32 images image of tfds:",
    ),
    "chosen floats": Row(
        {"image": PNG, "depth": FLOAT},
        {"train": of(image=image, depth=lambda n: FLOATS)},
        {"image_feature": "depth"},
        error="Received: float32 images depth",
    ),
    "photo and depth": Row(
        {"photo": PNG, "depth": FLOAT},
        {"train": of(photo=image, depth=lambda n: FLOATS)},
        said="The images are those of the feature photo.",
    ),
    "16 bits": Row(
        {"image": F.Image(shape=(4, 5, 1), dtype=np.uint16, encoding_format="png")},
        {"train": of(image=lambda n: np.full((4, 5, 1), 2570 * n, np.uint16))},
        said="1 image has 16 bits per value of which 12 at most are used",
    ),
    "alpha": Row(
        {"image": F.Image(shape=(None, None, 4))},
        {"train": of(image=lambda n: np.full((4, 5, 4), [7, 7, 7, 0], np.uint8))},
        {"background": "black"},
        pixels=(0, 0, 0, 0),
        said="4 images are transparent: shown on black",
    ),
    "frames": Row({"image": F.Image(shape=(None, 4, 5, 3))}, {"train": of(image=gif)}),
    "a video": Row(
        {"video": F.Sequence(F.Image())},
        {"train": of(video=lambda n: [image(n)])},
        error="an image in every example.*has video .Sequence of Image uint8.",
    ),
    "an array": Row(
        {"image": F.Tensor(shape=(2, 2), dtype=np.uint8)},
        {"train": of(image=lambda n: np.zeros((2, 2), np.uint8))},
        error="an image in every example.*has image .Tensor uint8.",
    ),
    "integers": Row(
        YEARS,
        {
            "train": of(image=image, label=lambda n: 1990 + 5 * n),
            "val": of(2, image=image, label=lambda n: 1995),
        },
        labels=[0, 1, 2, 3],
        classes=("1990", "1995", "2000", "2005"),
        test=("val", [1, 1]),
    ),
    "unknown integers": Row(
        YEARS,
        {"train": of(image=image, label=parity), "valid": of(2, image=image, label=lambda n: 7)},
        error="labels of the training set. Received: label=7 in tfds:.*valid",
    ),
    "secret integers": Row(
        YEARS,
        {"train": of(image=image, label=parity), "test": SECRET, "valid": LABELLED[:2]},
        labels=[0, 1, 0, 1],
        classes=("0", "1"),
        test=("valid", [0, 1]),
    ),
    "signs": Row(
        {"image": PNG, "label": F.Scalar(np.int8)},
        {"train": of(image=image, label=lambda n: 2 * parity(n) - 1)},
        labels=[0, 1, 0, 1],
        classes=("-1", "1"),
    ),
    "secret classes": Row(
        {"image": PNG, "label": CLASS},
        {"train": LABELLED, "test": SECRET, "validation": LABELLED[:2]},
        **IN_TWO,
        test=("validation", [0, 1]),
    ),
    "valid and val": Row(
        {"image": PNG, "label": CLASS},
        {"train": LABELLED, "val": LABELLED[:2], "valid": LABELLED[:1]},
        **IN_TWO,
        test=("valid", [0]),
    ),
    "some labels": Row(
        {"image": PNG, "label": CLASS},
        {"train": of(image=image, label=lambda n: n - 1 if n < 2 else 1)},
        said="Labels are not used: 1 of 4 looked at are missing",
    ),
    "coarse and fine": Row(
        {"image": PNG, "label": CLASS, "coarse_label": F.ClassLabel(num_classes=1)},
        {"train": of(image=image, label=parity, coarse_label=lambda n: 0)},
        **IN_TWO,
    ),
    "coarse": Row(
        {"image": PNG, "label": CLASS, "coarse_label": F.ClassLabel(num_classes=1)},
        {"train": of(image=image, label=parity, coarse_label=lambda n: 0)},
        {"label_feature": "coarse_label"},
        labels=[0, 0, 0, 0],
        classes=("0",),
    ),
    "other label": Row(
        {"image": PNG, "breed": CLASS, "width": INTEGER},
        {"train": of(image=image, breed=parity, width=one)},
        **IN_TWO,
        said="The labels are those of the feature breed.",
    ),
    "several labels": Row(
        SHAPES,
        {"train": SHAPED},
        said="No labels are read: --label_feature=shape or size would be.",
    ),
    "one of several": Row(SHAPES, {"train": SHAPED}, {"label_feature": "shape"}, **IN_TWO),
    "a chosen integer": Row(
        {"image": PNG, "label": CLASS, "year": INTEGER},
        {"train": of(image=image, label=parity, year=lambda n: 2000 - n)},
        {"label_feature": "year"},
        labels=[3, 2, 1, 0],
        classes=("1997", "1998", "1999", "2000"),
    ),
    "no such label": Row(
        SHAPES,
        {"train": SHAPED},
        {"label_feature": "shapes"},
        error="--label_feature=shapes for tfds:.*has image .Image uint8., shape .ClassLabel., size",
    ),
    "a number": Row(
        {"image": PNG, "label": F.Scalar(np.float32)},
        {"train": of(image=image, label=float)},
        said="No labels are read: label (Scalar float32) is no class.",
    ),
    "a chosen number": Row(
        {"image": PNG, "label": F.Scalar(np.float32)},
        {"train": of(image=image, label=float)},
        {"label_feature": "label"},
        error="must name a class, a list of classes or an integer",
    ),
    "tags": Row(
        {"image": PNG, "labels": TAGS, "label": INTEGER},
        {"train": of(image=image, labels=lambda n: [0, 1, 2][:n], label=one)},
        labels=[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]],
        classes=("0", "1", "2"),
    ),
    "chosen tags": Row(
        {"image": PNG, "tags": TAGS, "label": CLASS},
        {"train": of(image=image, tags=lambda n: [0, 1, 2][:n], label=parity)},
        {"label_feature": "tags"},
        labels=[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]],
        classes=("0", "1", "2"),
    ),
    "no such split": Row(
        {"image": PNG},
        {"train": of(image=image)},
        split=":dev",
        error="are train, and parts of them.*dev",
    ),
}


def read(source):
    """The values of the images, sorted as tfds shuffles them, and their labels in that order."""
    whole = source.cached()
    if whole.is_small:
        values, labels = whole.images[:, 0, 0, 0], whole.label(range(whole.num_examples)).numpy()
    else:
        batches = evaluation_batches(source, 4, 8, mean=(0, 0, 0), std=(1 / 255,) * 3)
        ((images, labels),) = batches.as_numpy_iterator()
        values = np.round(images[:, 0, 0, 0]).astype(int)
    order = np.argsort(values, kind="stable")
    if source.class_names is not None:
        np.testing.assert_array_equal(labels, source.labels())
    return values[order].tolist(), labels[order].tolist()


STREAMED = [
    pytest.param(name, 0, id=f"{name}, streamed", marks=pytest.mark.slow)
    for name in ("alpha", "integers", "coarse", "tags")
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cache_bytes"), [*((name, 2**30) for name in ROWS), *STREAMED])
def test_what_is_read_said_and_refused(tmp_path, name, cache_bytes):
    row = ROWS[name]
    tiny_tfds.prepare(tmp_path, "tiny", row.features, row.splits)
    features = dict(row.options)
    decoding = Decoding(background=features.pop("background", "white"))

    def opened():
        spec = f"tfds:tiny{row.split}"
        return open_source(spec, str(tmp_path), cache_bytes, decoding, **features)

    if row.error:
        with pytest.raises(DataError, match=row.error) as error:
            opened()
        assert "\n" not in str(error.value)
        return
    train, test = opened()
    assert "\n".join(remarks(train)).startswith(row.said)
    assert bool(remarks(train)) == bool(row.said)
    assert train.class_names == row.classes
    assert train.multilabel == (row.labels is not None and isinstance(row.labels[0], list))
    values, labels = read(train)
    assert values == list(row.pixels)
    if row.labels is not None:
        assert labels == row.labels
    assert (test and test.name.rpartition(":")[2]) == (row.test and row.test[0])
    if test is not None:
        assert test.class_names == row.classes
        assert not test.remarks
        if row.test[1] is not None:
            assert sorted(test.labels()) == row.test[1]


def test_the_label_feature_is_part_of_the_fingerprint(tmp_path):
    splits = {"train": SHAPED, "test": SHAPED[:2]}
    tiny_tfds.prepare(
        tmp_path, "tiny", SHAPES | YEARS, {s: [e | {"label": 1} for e in splits[s]] for s in splits}
    )
    prints = set()
    for feature in (None, "shape", "size"):
        train, test = open_source("tfds:tiny", str(tmp_path), 0, label_feature=feature)
        prints |= {train.fingerprint(), test.fingerprint()}
    assert len(prints) == 6


@pytest.mark.parametrize(
    ("known", "split", "message"),
    [
        (True, "dev", "The splits of tiny/1.0.0 are train, and parts of them .*Received: dev"),
        (True, "train[:0%]", "at least one image"),
        (True, "train[:10", r"The splits .*Received: train\[:10\."),
        (False, "train[:10", r"A split is named train, .*Received: train\[:10\."),
        (False, "te st", "A split is named train, .*Received: te st"),
    ],
)
def test_unknown_splits_are_refused_before_anything_is_downloaded(
    tmp_path, monkeypatch, known, split, message
):
    unprepared = tiny_tfds.builder(tmp_path, "tiny", {"image": PNG}, {})
    template = tfds.core.ShardedFileTemplate(
        tmp_path, dataset_name="tiny", filetype_suffix="tfrecord"
    )
    info = tfds.core.SplitInfo(
        name="train", shard_lengths=[4], num_bytes=0, filename_template=template
    )
    if known:  # as from the servers of tfds
        unprepared.info.set_splits(tfds.core.splits.SplitDict([info]))
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: unprepared)
    with pytest.raises(DataError, match=message) as error:
        open_source(f"tfds:tiny:{split}", str(tmp_path))
    assert "\n" not in str(error.value)
    assert not unprepared.data_path.exists()

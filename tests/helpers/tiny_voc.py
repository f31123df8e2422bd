"""PASCAL VOC in small: what is in its archives, for the real builder of tfds."""

import io
from unittest import mock

import tensorflow_datasets as tfds
from PIL import Image

_OBJECT = """<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>
<difficult>{difficult:d}</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"""


def prepare(data_dir, year, splits):
    """Prepares voc/YEAR as tfds does, without the download.

    Args:
        data_dir: pathlib.Path, to be given to tfds.
        year: "2007", or "2012", of whose test set tfds takes no labels.
        splits: for "train", "val" and "test" a list with the objects of each image, pairs (class,
            whether difficult). Image n of a split is a fog of gray 10 · n, in a size of its own.
    """
    archives = data_dir / f"extracted{year}"
    kit = archives / "VOCdevkit" / f"VOC{year}"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (kit / folder).mkdir(parents=True)
    for split, images in splits.items():
        names = [f"{split}_{n:06}" for n in range(len(images))]
        (kit / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for n, (name, objects) in enumerate(zip(names, images, strict=True)):
            (kit / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg(n))
            found = "".join(_OBJECT.format(name=c, difficult=difficult) for c, difficult in objects)
            size = f"<size><width>{20 + n}</width><height>30</height></size>"
            annotation = f"<annotation>{size}{found}</annotation>"
            (kit / "Annotations" / f"{name}.xml").write_text(annotation)
    with mock.patch.object(
        tfds.download.DownloadManager,
        "download_and_extract",
        lambda manager, urls: dict.fromkeys(urls, str(archives)),
    ):
        tfds.builder(f"voc/{year}", data_dir=data_dir).download_and_prepare()


def jpeg(n):
    """A photograph of fog."""
    file = io.BytesIO()
    Image.new("RGB", (20 + n, 30), (10 * n,) * 3).save(file, "JPEG")
    return file.getvalue()


class Tags(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images with some labels each, of which none is special; the first image has none."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = ["cat", "dog", "cow"]
        features = {
            "image": tfds.features.Image(),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=names)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for n, labels in enumerate(([], ["cat"], ["cow", "cat"])):
            yield n, {"image": io.BytesIO(jpeg(n)), "labels": labels}

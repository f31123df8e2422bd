"""ImageNet in small: archives in the official layout, for the real builder of tfds."""

import io
import tarfile

# The first synsets of ImageNet; tfds knows the others, but a synset may be absent.
SYNSETS = ("n01440764", "n01443537", "n01484850")


def write_archives(data_dir, train, validation, test):
    """Writes the three archives to where tfds looks for those downloaded by hand.

    Args:
        data_dir: pathlib.Path, to be given to tfds.
        train: for each synset of `SYNSETS` a list of encoded images.
        validation: list of encoded images.
        test: list of encoded images.
    """
    manual = data_dir / "downloads" / "manual"
    manual.mkdir(parents=True)
    synsets = {
        f"{synset}.tar": tar({f"{synset}_{n}.JPEG": image for n, image in enumerate(images)})
        for synset, images in zip(SYNSETS, train, strict=True)
    }
    (manual / "ILSVRC2012_img_train.tar").write_bytes(tar(synsets))
    for part, images in (("val", validation), ("test", test)):
        files = {f"ILSVRC2012_{part}_{n:08}.JPEG": image for n, image in enumerate(images, 1)}
        (manual / f"ILSVRC2012_img_{part}.tar").write_bytes(tar(files))


def tar(files):
    """An archive, as bytes, of files given by name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()

"""A folder of small images with names of all kinds, and a backbone that tells them apart."""

import keras
import numpy as np
from PIL import Image

# Paths below the folder; where one is the copy of another, that one's.
NAMES = {
    'train/a/quo"te, comma;.png': None,
    "train/a/two\nlines\r.png": None,
    f"train/b/{'long' * 60}.png": None,
    "train/b/<script>alert(1).jpg": None,  # turned by its EXIF orientation
    "train/b/文字 é.png": None,
    "test/a/=copy.png": "train/b/文字 é.png",
    "test/b/other.png": None,
}


def write_backbone(path, channels=3):
    """Writes a file with a random projection of 8 × 8 pixels to 12 features; returns its path."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, channels)), keras.layers.Flatten(), keras.layers.Dense(12)]
    keras.Sequential(layers).save(path)
    return path


def write_folder(folder):
    """Writes images of several sizes, and a damaged one; returns the paths in order."""
    random = np.random.RandomState(0)
    for name, original in NAMES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if original:
            path.write_bytes((folder / original).read_bytes())
            continue
        exif = Image.Exif()
        exif[0x0112] = 6 if name.endswith(".jpg") else 1
        pixels = random.randint(0, 256, (*random.randint(8, 24, 2), 3), np.uint8)
        Image.fromarray(pixels).save(path, exif=exif)
    (folder / "train/b/damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    order = sorted(NAMES, key=lambda name: (name.startswith("test"), name))
    return [str(folder / name) for name in order]

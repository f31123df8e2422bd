"""The two views of a run, as its settings describe them."""

from keras_bt import augmentations, data
from keras_bt.strategy import on_accelerator


def make(settings, source):
    """Returns the two views of a source with the settings' probabilities and strengths.

    Raises:
        ValueError: if they need three channels, and its images have others.
    """
    s = settings
    if source.channels != 3:
        check_colorless(s, source)
    same = ("flip", "jitter", "brightness", "contrast", "saturation", "hue", "grayscale")
    same += ("rotation", "shear")
    mean, std = data.normalization(s.normalize, source.channels)
    return augmentations.barlow_twins_views(
        s.image_size,
        area=(s.min_area, 1.0),
        blur=(s.blur_a, s.blur_b),
        blur_sigma=(0.1, s.blur_sigma),
        solarize=(s.solarize_a, s.solarize_b),
        mean=mean,
        std=std,
        **{name: getattr(s, name) for name in same},
    )


def place(augment_on):
    """Returns "host" or "device", given what `--augment_on` says."""
    if augment_on != "auto":
        return augment_on
    return "device" if on_accelerator() else "host"


def check_colorless(settings, source):
    """Refuses settings for images that are not RGB, in one line with the flags that would do."""
    s = settings
    needed = {
        "--normalize=none": s.normalize == "imagenet",
        "--jitter=0": s.jitter > 0 and max(s.contrast, s.saturation, s.hue) > 0,
        "--grayscale=0": s.grayscale > 0,
    }
    flags = [flag for flag, is_needed in needed.items() if is_needed]
    if flags:
        raise ValueError(
            "ImageNet's normalization and changes of color are for images of three channels; for "
            f"others add {' '.join(flags)}. Received: {source.name} with {source.channels} "
            "channels."
        )

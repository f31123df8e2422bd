"""Draws what the model will see: python -m trainers.preview_views --data=SOURCE --out=grid.png.

It takes the flags and recipes of trainers.pretrain, so that command line can be copied. Nothing is
trained, and only the picture is written.
"""

import dataclasses

import numpy as np

from trainers.cli import command
from trainers.pretrain import default_recipe
from trainers.runs.fields import free
from trainers.runs.settings import PretrainingSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreviewSettings(PretrainingSettings):
    """The flags: those of a run, and how to draw."""

    out: str = free("views.png", "PNG file to write.")
    images: int = free(
        8, "Number of images to draw, chosen at random by --seed.", least=1, most=100
    )
    draws: int = free(3, "Number of random draws of each view.", least=1, most=20)
    print_draws: bool = free(False, "Print what was drawn for each view: crop, flip, colors, …")
    sample: int = free(1000, "Number of images to open for statistics of their sizes.", least=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.out.lower().endswith(".png"):
            raise ValueError(f"--out must end in .png. Received: --out={self.out}")


def preview_views(settings):
    """Describes the data and draws some images, each with several draws of both views."""
    s = settings
    with command.mistakes:
        # Imported only once the flags are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from keras_bt import data, messages, preprocessing
            from trainers.runs import opening, preview_grid, recipe_views

        out = messages.check_writable("--out", s.out)
        train, test = opening.open_data(s.data, s)
        views = recipe_views.make(settings, train)
        print(about(train, "train on"))
        if test is not None:
            print(about(test, "measure on"))
        with data.reading(train):
            shown, sizes = look(train, s.images, max(s.sample, s.images), s.seed)
        print(about_sizes(train, sizes))
        if shown:  # else they would be looked at once more
            print(opening.remarks(train, test, image_size=s.image_size), end="")
        print(about_unreadable(train.unreadable), end="")
        if not shown:
            raise data.DataError(
                f"At least one image must be readable. Received: {s.data}, with none."
            )
        mean, std = data.normalization(s.normalize, train.channels)
        drawn = [
            preview_grid.draw_views(views, image, s.draws, (s.seed, row), mean, std)
            for row, (image, _) in enumerate(shown)
        ]
        height, width = preprocessing.height_and_width(s.image_size)
        size = f"{height} × {width} pixels" + (" (height × width)" if height != width else "")
        preview_grid.draw_grid(out, shown, drawn, f"What the model sees of {s.data}: {size}")
        if s.print_draws:
            images = [image for image, _ in shown]
            print(preview_grid.describe_draws(views, images, s.draws, s.seed))
        print(f"What the model will see: {out}")


def about(source, purpose):
    """Describes the number of images and classes of a source."""
    names = source.class_names
    if names is None:
        return f"{source.num_examples:,} images to {purpose}, without labels"
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    classes = "1 class" if len(names) == 1 else f"{len(names):,} classes"
    return f"{source.num_examples:,} images to {purpose}, in {classes}: {some}"


def look(source, count, sample, seed):
    """Opens a random sample of `sample` images.

    Returns:
        list of up to `count` pairs (image uint8 (h, w, c), class name or None).
        list of (height, width), of every image in the sample that could be read.
    """
    import tensorflow as tf

    part = source.sample(sample, seed)

    def decode(*reference):  # stop=False: all unreadable images are to be named, however many
        return part.decode(*reference, stop=False, look=True)

    examples = part.in_order().map(decode, tf.data.AUTOTUNE, deterministic=True)
    shown, sizes = [], []
    for image, readable, label in examples.as_numpy_iterator():
        if not readable:
            continue
        sizes.append(image.shape[:2])
        if len(shown) < count:
            shown.append((image, class_of(label, source)))
    return shown, sizes


def class_of(label, source):
    """Returns the name of an image's class, or of all its classes; None without labels."""
    if source.class_names is None:
        return None
    labels = np.flatnonzero(label == 1) if source.multilabel else [label]
    return ", ".join(source.class_names[one] for one in labels)


def about_sizes(source, sizes):
    """Describes the sizes of the images."""
    if not sizes:
        return "No image could be read"
    heights, widths = np.array(sizes).T
    all_of_them = len(sizes) + len(source.unreadable) == source.num_examples
    which = f"all {len(sizes):,}" if all_of_them else f"{len(sizes):,} of them"
    if len(set(sizes)) == 1:
        return f"Sizes of {which}: width {widths[0]}, height {heights[0]}"
    return (
        f"Sizes of {which}: width {widths.min()} to {widths.max()}, median "
        f"{np.median(widths):.0f}; height {heights.min()} to {heights.max()}, median "
        f"{np.median(heights):.0f}"
    )


def about_unreadable(unreadable):
    """Lists the images that could not be read, one per line; "" if there are none."""
    if not len(unreadable):
        return ""
    lines = [
        f"{len(unreadable):,} could not be read; training would "
        + (
            "skip them:"
            if len(unreadable) <= unreadable.limit
            else f"stop, as these are over {100 * unreadable.share:g}%:"
        )
    ]
    lines += [f"  {name}: {reason}" for name, reason in sorted(unreadable.reasons.items())]
    return "\n".join(lines) + "\n"


def main():
    """Runs the command."""
    command.run(preview_views, PreviewSettings, default_recipe, backends=("tensorflow",))


if __name__ == "__main__":
    main()

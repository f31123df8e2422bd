"""A grid of images, each with several draws of both views."""

import textwrap

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_bt.data import IMAGENET_MEAN, IMAGENET_STD
from keras_bt.plots import figures
from keras_bt.randomness import fold_in


def draw_views(views, image, draws, seed, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """Draws both views of an image `draws` times; `seed` is two integers.

    `mean` and `std` are those that the views are normalized by.

    Returns:
        float array (2, draws, h, w, c), views A and B in 0..1.
    """
    with tf.device("CPU:0"):  # a few images need no accelerator
        normalized = [
            [view(image, _seed(seed, draw, which)) for draw in range(draws)]
            for which, view in enumerate(views)
        ]
    return np.clip(np.array(normalized) * std + mean, 0, 1)


def describe_draws(views, images, draws, seed):
    """Describes what `draw_views` drew for each of several images, a line for each view of them.

    The seed of an image is (seed, its row).
    """
    lines = []
    for row, image in enumerate(images):
        for which, view in enumerate(views):
            for draw in range(draws):
                seeds = _seed((seed, row), draw, which)[None]
                drawn = view.draw(seeds, *image.shape[:2])
                described = [text for item in drawn.items() if (text := _described(*item))]
                name = f"image {row + 1}, view {'AB'[which]}, draw {draw + 1}"
                lines.append(f"{name}: {'; '.join(described) or 'as it is'}")
    return "\n".join(lines)


def _seed(seed, draw, which):
    return fold_in(seed, 2 * draw + which)


def _described(name, draws):
    """Describes what one layer does to one image; "" if nothing."""
    values = {key: np.asarray(value)[0] for key, value in draws.items()}
    if not values.pop("chosen", True):
        return ""
    kind = name.partition("_")[2].replace("_", " ")
    numbers = ", ".join(
        f"{key} {np.array2string(value, precision=3, separator=' ').strip('[]')}"
        for key, value in values.items()
    )
    return f"{kind} ({numbers})" if numbers else kind


def draw_grid(path, shown, drawn, title):
    """Draws one row per image: the image itself, draws of view A, draws of view B.

    Args (the others speak for themselves):
        shown: list of pairs (image uint8 (h, w, c), class name or None).
        drawn: the views of each, as `draw_views` returns them.
    """
    draws = len(drawn[0][0])
    widths = [1, 0.15, *[1] * draws, 0.15, *[1] * draws]  # the narrow ones are gaps
    size = 1.5 * sum(widths) + 1.6, 1.53 * len(shown) + 0.8  # inches
    figure, panels = figures.new(*size, len(shown), len(widths), width_ratios=widths)
    panels = panels.reshape(len(shown), len(widths))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04, wspace=0, hspace=0)
    title = textwrap.shorten(title, 110) + figures.about_channels(shown[0][0])
    title = textwrap.fill(title, int(10 * size[0]))  # few draws make a narrow picture
    figure.suptitle(title, fontsize=12, parse_math=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, ((image, name), views) in enumerate(zip(shown, drawn, strict=True)):
        first = panels[row, 0]
        show(first, framed(figures.colors(image)))
        height, width = image.shape[:2]
        caption = [] if name is None else textwrap.wrap(name, 18)[:3]
        caption += [f"{height} × {width}"]  # as in the title
        first.set_ylabel(
            "\n".join(caption), rotation=0, ha="right", va="center", fontsize=8, parse_math=False
        )
        for which, view in enumerate(views):
            for draw, picture in enumerate(view):
                show(panels[row, 2 + which * (draws + 1) + draw], figures.colors(picture))
    panels[0, 0].set_title("image", fontsize=10)
    for which, letter in enumerate("AB"):
        for draw in range(draws):
            axes = panels[0, 2 + which * (draws + 1) + draw]
            axes.set_title(f"view {letter}{f', draw {draw + 1}' * (draws > 1)}", fontsize=10)
    figures.save(figure, path)


def show(axes, picture):
    """Draws an image in a panel; the pixels of a small one stay visible."""
    smooth = "nearest" if max(picture.shape[:2]) < 100 else "antialiased"
    axes.imshow(picture, interpolation=smooth)
    figures.frame(axes)


def framed(image):
    """Centers an image (h, w, 3) in a gray square of at most 512 × 512 pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((512, 512))  # enough for a panel
    side = max(picture.size)
    square = Image.new("RGB", (side, side), figures.FRAME)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square)

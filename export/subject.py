"""What is exported, and the flags that the exporting commands share.

`--backbone=RUN` takes the backbone of a `trainers.pretrain` run, with its image size, the resizing
of its evaluation, and the contents of its card.
"""

import dataclasses
import pathlib

from trainers.runs.fields import setting
from trainers.runs.settings import MOST_PIXELS, DataSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings(DataSettings):
    """The flags that the exporting commands share."""

    backbone: str | None = setting(
        None, "Backbone to export: the folder of a trainers.pretrain run, or a .keras file."
    )
    image_size: int | tuple[int, int] | None = setting(
        None,
        "Side of the square images that the backbone sees in pixels, or their height and width: "
        "64x96. Default: the run's.",
        least=1,
        most=MOST_PIXELS,
    )
    resize: int | None = setting(
        None,
        "Shorter side of an image before the center crop, in pixels. Default: as in the run's "
        "evaluation; for a .keras file, image_size · 256/224.",
        least=1,
        most=MOST_PIXELS,
    )
    normalize: str | None = setting(
        None,
        "Normalization of pixels: by the mean and deviation of ImageNet's red, green and blue, or "
        "none but the division by 255. Default: the run's, or imagenet.",
        choices=("imagenet", "none"),
    )


@dataclasses.dataclass(frozen=True)
class Subject:
    """A backbone and what is known about it.

    Attributes:
        backbone: `keras.Model`, (b, h, w, c) → (b, features).
        file: Its .keras file.
        image_size: Side of the images that it sees, in pixels, or (height, width).
        resize: See `keras_bt.preprocessing.center_crop`.
        normalization: Mean and standard deviation of each channel.
        card: JSON values, empty if it belongs to no run.
        reading: dict, how the run read images, see `trainers.runs.opening.reading`.
    """

    backbone: object
    file: pathlib.Path
    image_size: int | tuple
    resize: int | None
    normalization: tuple
    card: dict
    reading: dict


def read(flags):
    """Opens what the flags, `ExportSettings`, name.

    Raises:
        ValueError, OSError: the backbone cannot be loaded, or a setting is missing.
    """
    from keras_bt import saved_model, workdir
    from keras_bt.preprocessing import normalization
    from trainers.runs import backbones, opening

    file, settings = backbones.find(flags.backbone)
    image_size = flags.image_size or settings.get("image_size")
    if not image_size:
        raise ValueError(f"--image_size is needed, as {file} does not belong to a run.")
    reading = opening.reading(flags, settings)
    backbone = backbones.load(file, image_size, normalize=reading["normalize"])
    resize = (
        flags.resize or settings.get("resize") or _resize_of_evaluation(settings, image_size, flags)
    )
    run = workdir.Workdir(file.parent)
    figures = run.read_summary() if settings and run.summary.is_file() else {}
    card = saved_model.run_card(settings, figures) if settings else {}
    statistics = normalization(reading["normalize"], backbones.channels_of(backbone))
    return Subject(backbone, file, image_size, resize, statistics, card, reading)


def _resize_of_evaluation(settings, image_size, flags):
    """Returns the shorter side to which evaluation resizes the run's images; None for the default.

    Raises:
        ValueError: the data, which it depends on, cannot be opened.
    """
    from keras_bt import data
    from trainers.runs.opening import open_data

    if "data" not in settings:
        return None
    if hasattr(flags, "max_unreadable"):  # the run has decided how many may be
        flags = dataclasses.replace(flags, max_unreadable="100%")
    try:
        source, _ = open_data(settings["data"], flags, settings)
    except (ValueError, OSError) as error:
        raise ValueError(f"--resize is needed, as the data cannot be opened. {error}") from error
    return data.evaluation_resize(source, image_size)

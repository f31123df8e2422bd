"""Opening the images that settings name, the same way in every command."""

from keras_bt import data
from trainers.runs.settings import OF_A_NEW_RUN

DECODING = ("background", "exif", "max_pixels")
FIELDS = (*OF_A_NEW_RUN, "image_feature", "label_feature")


def open_data(spec, settings, of_run=None):
    """Opens images.

    Args:
        spec: string, see `keras_bt.data.open_source`.
        settings: `trainers.runs.settings.ReadingSettings`.
        of_run: dict, the settings of the backbone's run, which hold where these are None.

    Returns:
        training source: `keras_bt.data.Source`.
        test source: the same or None.

    Raises:
        ValueError: if they cannot be opened.
    """
    read = reading(settings, of_run or {})
    return data.open_source(
        spec,
        settings.data_dir,
        decoding=decoding(settings, read),
        image_feature=read["image_feature"],
        label_feature=read["label_feature"],
    )


def decoding(settings, read):
    """Returns the `keras_bt.data.Decoding` of settings and what `reading` returns."""
    # Commands without that flag take a run's images as they are, whatever it tolerated.
    share = getattr(settings, "max_unreadable", "100%")
    return data.Decoding(
        **{name: read[name] for name in DECODING},
        max_unreadable=float(share.removesuffix("%")) / 100,
    )


def reading(settings, of_run):
    """Returns how images are read: the fields of `ReadingSettings` that determine it, by name."""
    read = {name: getattr(settings, name, None) for name in FIELDS}
    earlier = OF_A_NEW_RUN | of_run
    return {name: earlier.get(name) if value is None else value for name, value in read.items()}


def remarks(*sources, image_size=None):
    """Returns what the user should know about the images, a line for each remark, for printing."""
    # Parts of one source know what was noticed about all of it.
    distinct = {id(source.decoder): source for source in reversed(sources) if source is not None}
    lines = []
    for source in reversed(distinct.values()):
        named = f"{source.name}: " if len(distinct) > 1 else ""
        lines += [f"  {named}{line}\n" for line in data.remarks(source, image_size)]
    return "".join(lines)

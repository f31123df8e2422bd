"""What a user should know about their images before anything is done with them."""

import time

import tensorflow as tf

from keras_bt.data.as_written import as_written
from keras_bt.data.image_files import Oddities
from keras_bt.data.sources import Source
from keras_bt.messages import progress_bar
from keras_bt.preprocessing import height_and_width
from keras_bt.typing import Size

SAMPLE = 1000  # images looked at where not all fit in memory
_SECONDS = 10  # for which images are looked at; large photographs are fewer


def remarks(source: Source, image_size: Size | None = None) -> list[str]:
    """Describes what is odd about the images of a source, and what was left out.

    Images that fit in memory are all decoded, and kept (`Source.cached`); of others a sample is.

    Args:
        source: the images.
        image_size: (height, width) of the views in pixels, or one int for both, to tell which
            images are smaller.

    Returns:
        Lines of text; none if there is nothing to say.

    Raises:
        DataError: if too many images that fit in memory are unreadable.

    Example:
        >>> remarks(train)   # 12 images of 16 × 16 in memory
        []
        >>> remarks(train, image_size=32)
        ['All images are smaller than the views (32 pixels) and get enlarged.']
    """
    found = look(source)
    decoding, looked = source.decoder.decoding, len(found)
    lines = list(source.remarks)
    if not looked:
        shape = source.image_shape
        if shape and image_size and _is_smaller(*shape[:2], image_size):
            lines.append(f"All images are {_smaller(image_size)}")
        return lines

    def say(count, one, many, rest):
        """Says of how many images something holds."""
        if not count:
            return
        if looked + len(source.unreadable) >= source.num_examples:
            which = f"1 image {one}" if count == 1 else f"{count:,} images {many}"
        else:
            share = max(1, round(100 * count / looked))
            which = f"About {share}% of the images ({looked:,} were looked at) {many}"
        lines.append(f"{which} {rest}")

    on = f"transparent: shown on {decoding.background} (--background)."
    say(sum(image.transparent for image in found), "is", "are", on)
    ignored = "which is ignored (--exif=apply follows it)."
    turned = "an EXIF orientation, " + (
        "which is applied." if decoding.exif == "apply" else ignored
    )
    say(sum(image.turned for image in found), "has", "have", turned)
    bits = "16 bits per value of which 12 at most are used: nearly black, unless multiplied by 16."
    say(sum(image.dark for image in found), "has", "have", bits)
    if image_size:
        small = sum(_is_smaller(image.height, image.width, image_size) for image in found)
        if small == looked:
            lines.append(f"All images are {_smaller(image_size)}")
        else:
            say(small, "is", "are", _smaller(image_size))
    return lines


def look(source: Source) -> list[Oddities]:
    """Looks at the images of a source, or at a sample of those that do not fit in memory.

    Returns:
        `keras_bt.data.image_files.Oddities` of each image that could be read; none for images that
        do not come from files.
    """
    # Small images in memory never were files.
    if not source.is_small and not len(source.decoder.noticed) and source.cached() is source:
        part = source.sample(SAMPLE, 0)
        decode = as_written(lambda *image: part.decode(*image, stop=False, look=True))
        examples = part.in_order().map(decode, tf.data.AUTOTUNE)
        end = time.monotonic() + _SECONDS
        for _ in progress_bar(examples, desc="Looking at images", delay=2, leave=False):
            if time.monotonic() > end:
                break
    return source.decoder.noticed.all()


def sizes(source: Source) -> set[tuple[int, int]]:
    """Returns the sizes of the images looked at, as pairs (height, width)."""
    return {(image.height, image.width) for image in look(source)}


def _is_smaller(height, width, image_size):
    least_height, least_width = height_and_width(image_size)
    return height < least_height or width < least_width


def _smaller(image_size):
    height, width = height_and_width(image_size)
    size = f"{height}" if height == width else f"{height} × {width}"
    return f"smaller than the views ({size} pixels) and get enlarged."

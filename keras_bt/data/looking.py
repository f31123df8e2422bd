"""What a user should know about their images before anything is done with them."""

import tensorflow as tf

from keras_bt.data.sources import Source

SAMPLE = 1000  # images looked at where not all fit in memory


def remarks(source: Source, image_size: int | None = None) -> list[str]:
    """Describes what is odd about the images of a source, and what was left out.

    Images that fit in memory are all decoded, and kept (`Source.cached`); of others a sample is.

    Args:
        source: the images.
        image_size: side of the views in pixels, to tell which images are smaller.

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
        if shape and image_size and min(shape[:2]) < image_size:
            lines.append(_enlarged("All images are", image_size))
        return lines

    def say(count, one, many):
        """Says of how many images something holds."""
        if not count:
            return
        if looked + len(source.unreadable) >= source.num_examples:
            images = "1 image " if count == 1 else f"{count:,} images "
            lines.append(images + (one if count == 1 else many))
        else:
            share = f"{max(1, round(100 * count / looked))}%"
            lines.append(f"About {share} of the images ({looked:,} were looked at) {many}")

    on = f"transparent: shown on {decoding.background} (--background)."
    say(sum(image.transparent for image in found), f"is {on}", f"are {on}")
    turned = "are turned upright by" if decoding.exif == "apply" else "would be turned by"
    turned += " their EXIF orientation"
    turned += "." if decoding.exif == "apply" else ", which is ignored (--exif=apply turns them)."
    say(sum(image.turned for image in found), turned.replace("are ", "is ", 1), turned)
    bits = (
        "of 16 bits per value use the lower 12 or fewer, and come out nearly black: multiply their "
        "values by 16 or more."
    )
    say(sum(image.dark for image in found), bits.replace("use", "uses", 1), bits)
    if image_size:
        small = sum(min(image.height, image.width) < image_size for image in found)
        if small == looked:
            lines.append(_enlarged("All images are", image_size))
        else:
            say(small, _enlarged("is", image_size), _enlarged("are", image_size))
    return lines


def look(source: Source) -> list:
    """Looks at the images of a source, or at a sample of those that do not fit in memory.

    Returns:
        `keras_bt.data.image_files.Oddities` of each image that could be read; none for images that
        do not come from files.
    """
    if source.cached() is source and not len(source.decoder.noticed):
        part = source.sample(SAMPLE, 0)
        examples = part.in_order().map(
            lambda *reference: part.decode(*reference, stop=False, look=True), tf.data.AUTOTUNE
        )
        for _ in examples:
            pass
    return source.decoder.noticed.all()


def sizes(source: Source) -> set[tuple[int, int]]:
    """Returns the sizes of the images looked at, as pairs (height, width)."""
    return {(image.height, image.width) for image in look(source)}


def _enlarged(which, image_size):
    return f"{which} smaller than the views ({image_size} pixels) and get enlarged."

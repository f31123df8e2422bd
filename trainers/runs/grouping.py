"""Groups of near-duplicates, behind `trainers.duplicates`."""

import csv
import hashlib

import numpy as np

from keras_bt import messages, plots
from keras_bt.evaluation.duplicates import near_duplicates
from keras_bt.files import whole
from trainers.runs import collection

_HEADER = ("group", "leak", "path", "split", "label", "nearest", "similarity", "to_first", "pixels")
_PIXELS = 128  # of the longer side of a picture
_GROUPS_SHOWN, _IMAGES_SHOWN, _LEAKS_NAMED = 15, 8, 5
_WHOLE = 2**24  # a longer side than any
_LARGE = 0.2  # of all images in one group: hardly copies of one


def run(settings):
    """Groups all images, and writes a table of the groups and a picture of the first.

    Returns the report for the terminal.

    Raises:
        ValueError: if a file cannot be written.
    """
    s = settings
    out = messages.check_writable("--out", s.out)
    picture = messages.check_writable("--out", out.with_suffix(".png"))
    found = collection.read(s)
    features = found.whitened() if s.whiten else found.features
    print("Comparing all pairs of images:")
    duplicates = near_duplicates(features, s.similarity, progress=True)
    groups = _in_order(duplicates.groups, found.splits)
    pixels = _equal_pixels(found, groups)
    with whole(out) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(_HEADER)
        for number, (members, leak) in enumerate(groups, 1):
            for i in members:
                row = (
                    *(number, "yes" if leak else "no", found.names[i], found.splits[i]),
                    *(_label(found, i), found.names[duplicates.nearest[i]]),
                    *(
                        f"{array[i]:.4f}"
                        for array in (duplicates.similarities, duplicates.to_first)
                    ),
                    pixels.get(i, ""),
                )
                table.writerow(row)
    lines = ["", *_described(groups, found, duplicates, s), f"Written to {out}."]
    if groups:
        _draw(picture, groups, found, duplicates)
        lines.append(
            f"A picture of {'the first' if len(groups) > _GROUPS_SHOWN else 'all'} groups: "
            f"{picture}"
        )
    elif picture.exists():
        picture.unlink()  # of an earlier run
    return "\n".join(lines)


def _in_order(numbers, splits):
    """Returns groups, `(members, whether both parts are among them)`, leaks and large ones first.

    Training images come first among the members, as they do in a collection.
    """
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    groups = [part.tolist() for part in np.split(order, starts)[1:]]
    found = [(members, len({splits[i] for i in members}) > 1) for members in groups]
    return sorted(found, key=lambda group: (not group[1], -len(group[0]), group[0][0]))


def _equal_pixels(found, groups):
    """Returns, for images of which others of their group are equal to the last pixel, a name.

    The name is the same for all that are equal, the first digits of a SHA-256.
    """
    members = np.array([i for group, _ in groups for i in group], np.int64)
    digests = {}
    for number, image in found.each_image(members, _WHOLE):
        content = str(image.shape).encode() + image.tobytes()
        digests[number] = hashlib.sha256(content).hexdigest()[:12]
    equal = {}
    for group, _ in groups:
        count = {}
        for i in group:
            count[digests[i]] = count.get(digests[i], 0) + 1
        equal |= {i: digests[i] for i in group if count[digests[i]] > 1}
    return equal


def _label(found, i):
    """Returns the name of the class, or of the classes, "" if there are none."""
    if found.labels is None:
        return ""
    if found.labels.ndim == 1:
        return found.class_names[found.labels[i]] if found.labels[i] >= 0 else ""
    return " ".join(found.class_names[c] for c in np.flatnonzero(found.labels[i] == 1))


def _described(groups, found, duplicates, s):
    images = sum(len(members) for members, _ in groups)
    what = "whitened features" if s.whiten and found.whitening is not None else "features"
    lines = [
        f"Near-duplicates, by a cosine similarity of {what} of {s.similarity:g} or more: "
        f"{len(groups):,} groups of {images:,} of {len(found):,} images."
    ]
    leaks = []
    for members, leak in groups:
        for i in (i for i in members if leak and found.splits[i] != "train"):
            near = duplicates.nearest[i]
            if found.splits[near] == "train":
                leaks.append((duplicates.similarities[i], i, near))
            else:
                leaks.append((duplicates.to_first[i], i, members[0]))
    leaks.sort(key=lambda leak: -leak[0])
    if "test" in found.splits:
        lines.append(
            f"Leaks: {len(leaks):,} of {found.splits.count('test'):,} test images are in a group "
            f"with training images{':' if leaks else '.'}"
        )
    for similarity, *pair in leaks[:_LEAKS_NAMED]:
        one, other = (messages.one_line(found.names[n]) for n in pair)
        lines.append(f"  {one} is like {other}, {similarity:.3f}")
    if len(leaks) > _LEAKS_NAMED:
        lines.append(
            f"  … and {len(leaks) - _LEAKS_NAMED:,} more, in the first groups of the file."
        )
    largest = max((len(members) for members, _ in groups), default=0)
    if largest > max(10, _LARGE * len(found)):
        lines.append(
            f"The largest group has {largest:,} images, too many to be copies of one: they are "
            f"joined by chains of pairs. A --similarity above {s.similarity:g} divides them."
        )
    return lines


def _draw(path, groups, found, duplicates):
    rows, titles, chosen = [], [], []
    for members, leak in groups[:_GROUPS_SHOWN]:
        shown = members[:_IMAGES_SHOWN]
        if leak and all(found.splits[i] == "train" for i in shown):
            shown[-1] = next(i for i in members if found.splits[i] != "train")
        chosen.append(shown)
    # All at once, as opening them takes longer than reading a few.
    wanted = [i for shown in chosen for i in shown]
    images = dict(zip(wanted, found.images(wanted, _PIXELS), strict=True))
    for number, (shown, (members, leak)) in enumerate(zip(chosen, groups, strict=False), 1):
        row = []
        for i in shown:
            similarity = "first" if i == members[0] else f"{duplicates.to_first[i]:.3f}"
            caption = f"{found.splits[i]}, {similarity}"
            row.append((images[i], caption, messages.one_line(found.names[i])))
        rows.append(row)
        size = f"{len(members):,} images" + (", test and training" if leak else "")
        titles.append(f"group {number}: {size}")
    plots.picture_rows(path, rows, titles, "Near-duplicates, with the similarity to the first")

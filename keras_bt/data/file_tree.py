"""What lies below a folder: its image files in order, and which other files there are."""

import os
from collections import Counter
from collections.abc import Iterator

from keras_bt.data.decoding import DataError, printable
from keras_bt.data.image_files import EXTENSIONS, looks_like_an_image
from keras_bt.messages import progress_bar

# What systems and programs put beside the files of a user, besides names that begin with a dot.
_OF_SYSTEMS = (
    *("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"),
    *("system volume information", "lost+found"),
)
_KINDS_SHOWN = 5


class Folder:
    """A folder and all that lies below it.

    A file is taken for an image by its extension, in upper or lower case, or, without extension, by
    its first bytes. Links are followed, except those to a folder that contains the link. Names that
    begin with a dot and those that systems use are passed over.

    Attributes:
        path: where it is.
        name: its last part.
        entries: paths of image files, and `Folder`s, sorted by name.
        num_images: number of image files, in it or below.
        left_out: `Counter` of other files, in it or below, by extension or what they are.
    """

    def __init__(self, path: str, name: str = ""):
        self.path = path
        self.name = name
        self.entries: list[str | Folder] = []
        self.num_images = 0
        self.left_out: Counter[str] = Counter()

    @property
    def images(self) -> list[str]:
        """The paths of the images that lie in it, not below."""
        return [entry for entry in self.entries if isinstance(entry, str)]

    @property
    def folders(self) -> list["Folder"]:
        """The folders in it."""
        return [entry for entry in self.entries if isinstance(entry, Folder)]

    @property
    def with_images(self) -> list["Folder"]:
        """The folders in it that hold images, there or below."""
        return [folder for folder in self.folders if folder.num_images]

    def all_images(self) -> Iterator[str]:
        """Yields the paths of the images in it and below, sorted."""
        pending: list[str | Folder] = [self]
        while pending:  # not by recursion: folders may be nested deeply
            entry = pending.pop()
            if isinstance(entry, str):
                yield entry
            else:
                pending.extend(reversed(entry.entries))


def read_tree(path: str) -> Folder:
    """Lists all that lies below a folder.

    Raises:
        DataError: if the folder, or one below it, cannot be read.
    """
    root = Folder(path)
    pending: list[tuple[Folder, tuple[str, ...]]] = [(root, ())]  # with the links that led there
    found = []
    bar = progress_bar(desc="Looking for images", unit=" files", delay=2, leave=False)
    while pending:
        folder, links = pending.pop()
        found.append(folder)
        entries = _entries(folder.path)
        bar.update(len(entries))
        for entry in entries:
            if not _is_folder(entry):
                kind = _kind(entry)
                if kind is None:
                    folder.entries.append(entry.path)
                    folder.num_images += 1
                else:
                    folder.left_out[kind] += 1
            elif entry.is_symlink() and _contains(entry.path, (*links, entry.path)):
                folder.left_out["(link in a circle)"] += 1
            else:
                inner = Folder(entry.path, entry.name)
                folder.entries.append(inner)
                pending.append((inner, (*links, entry.path) if entry.is_symlink() else links))
    bar.close()
    for folder in reversed(found):  # a folder comes after the one that it lies in
        for inner in folder.folders:
            folder.num_images += inner.num_images
            folder.left_out += inner.left_out
    return root


def described(kinds: Counter[str]) -> str:
    """Lists how many files there are of each kind, most frequent first.

    Example:
        >>> described(Counter({".txt": 12, ".heic": 200}))
        '200 .heic, 12 .txt'
    """
    ranked = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    listed = [f"{count:,} {shown(kind)}" for kind, count in ranked[:_KINDS_SHOWN]]
    return ", ".join(listed) + (", …" if len(kinds) > _KINDS_SHOWN else "")


def shown(path: str) -> str:
    """Returns a path as text on one line."""
    return printable(path).replace("\n", "\\n")


def _contains(link, links):
    """Tells whether a link leads to a folder around it, or around a link that led to it."""
    target = os.path.join(os.path.realpath(link), "")
    return any(
        os.path.join(os.path.realpath(os.path.dirname(passed)), "").startswith(target)
        for passed in links
    )


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be read
        return False


def _kind(entry):
    """Returns None for an image, else what kind of file it is."""
    extension = os.path.splitext(entry.name)[1].lower()
    try:
        is_file = entry.is_file()
    except OSError:
        is_file = False
    lost = not is_file and entry.is_symlink() and not os.path.exists(entry.path)
    if not is_file and not lost:
        return "(no file)"  # a pipe or a device, on which reading would hang
    if extension in EXTENSIONS:
        return None  # lost or not: it is reported as unreadable, and not silently passed over
    if lost:
        return "(broken link)"
    if extension not in ("", "."):
        return extension
    return None if looks_like_an_image(entry.path) else "(no extension)"


def _entries(folder):
    try:
        with os.scandir(folder) as entries:
            visible = (
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.name.lower() not in _OF_SYSTEMS
            )
            return sorted(visible, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            "folder: needs a folder that can be read. "
            f"Received: {_shortened(shown(folder))} ({error.strerror})."
        ) from error


def _shortened(path):
    return path if len(path) <= 1000 else f"{path[:100]}…{path[-100:]}"

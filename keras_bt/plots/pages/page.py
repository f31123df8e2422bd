"""Puts styles, scripts, data and pictures into one HTML file, which opens from the file system.

The styles and scripts are plain files in this folder; nothing is built. What a page shows came from
strangers' file names and labels, so three things keep it from running them: JSON holds no `<`, a
script puts texts in by `textContent` alone, and the Content-Security-Policy allows no script but
those whose hashes it names, and no request at all.
"""

import base64
import hashlib
import html
import importlib.resources
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_bt.files import whole
from keras_bt.typing import Path

_ASSETS = importlib.resources.files("keras_bt.plots.pages")
# In JSON the first three can end a script or begin a comment; the others end a line of JavaScript.
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
_PICTURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))


def write(
    path: Path,
    title: str,
    body: str,
    assets: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a page, whole or not at all.

    Its scripts run before the pictures are read, so that a large page shows something at once.

    >>> write("page.html", "Cats & dogs", f"<main><h1>{text('<b>')}</h1></main>", data={"n": [1]})
    >>> with open("page.html", encoding="utf-8") as file:
    ...     "<title>Cats &amp; dogs</title>" in file.read()
    True

    Args:
        path: the HTML file.
        title: any text.
        body: HTML, in which everything from outside went through `text`.
        assets: names of styles and scripts in this folder, without suffix: `explore` for
            `explore.css` and `explore.js`, if there are. `page` comes first, always.
        data: JSON values and NumPy arrays (of 8 to 32 bits, flattened), which `page.data()` returns
            in a script, the arrays as typed ones.
        pictures: PNG, JPEG or WebP files by name, which `page.picture(name)` returns in a script
            as a URL, or null as long as it has not been read.

    Raises:
        ValueError: if the data is not JSON: NaN, for example.
        OSError: if the file cannot be written.
    """
    with whole(path) as partial, partial.open("wb") as file:
        for part in _parts(title, body, ("page", *assets), data or {}, pictures or {}):
            # Names of files may hold bytes that are no text.
            file.write(part.encode("utf-8", "replace"))


def text(value: object) -> str:
    """Returns a text as HTML that shows it, in an element or in a quoted attribute.

    >>> text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(str(value))


def data_url(picture: bytes) -> str:
    """Returns the URL that holds a picture, for the `src` of an image.

    >>> data_url(bytes([0xFF, 0xD8, 0xFF]))
    'data:image/jpeg;base64,/9j/'

    Raises:
        ValueError: if it is not a PNG, JPEG or WebP file.
    """
    return f"data:{_kind(picture)};base64,{_base64(picture)}"


def json_text(value: Any) -> str:
    r"""Returns JSON that may stand in a `<script>`; NumPy arrays become objects of base64.

    >>> json_text({"name": "</script>", "places": np.array([1, 2], np.uint8)})
    '{"name":"\\u003c/script\\u003e","places":{"$array":"uint8","base64":"AQI="}}'

    Raises:
        ValueError: if there is a NaN, an infinity, or an array of a type that JavaScript lacks.
    """
    plain = json.dumps(value, default=_array, allow_nan=False, separators=(",", ":"))
    return plain.translate(_ESCAPES)


def _array(value):
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise ValueError(f"A page holds JSON and arrays of numbers. Received: {type(value)}.")
    if value.itemsize > 4 or value.dtype == np.float16:
        raise ValueError(f"Arrays must be of 8 to 32 bits. Received: {value.dtype}.")
    little_endian = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    return {"$array": value.dtype.name, "base64": _base64(little_endian.tobytes())}


def _parts(title, body, assets, data, pictures) -> Iterator[str]:
    """Yields the page part by part: with all its pictures it may be 60 MB."""
    style = "\n".join(_asset(name, "css") for name in assets)
    scripts = [script for name in assets if (script := _asset(name, "js"))]
    yield f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{body}
<script type="application/json" id="page-data">"""
    yield json_text(data)
    yield "</script>\n"
    for script in scripts:
        yield f"<script>{script}</script>\n"
    for name, picture in pictures.items():
        # Not an <img>: it would be decoded whether or not it is looked at.
        kind = _kind(picture)
        yield f'<script type="{kind}" data-picture="{text(name)}">{_base64(picture)}</script>\n'
    yield "</body>\n</html>\n"


def _policy(scripts):
    hashes = [_base64(hashlib.sha256(script.encode()).digest()) for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _asset(name, suffix):
    file = _ASSETS / f"{name}.{suffix}"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _kind(picture):
    for beginning, kind in _PICTURES:
        if picture.startswith(beginning):
            return kind
    raise ValueError(f"A picture must be PNG, JPEG or WebP. Received: {picture[:8]!r}…")


def _base64(content):
    return base64.b64encode(content).decode()

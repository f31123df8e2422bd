"""Checks what an installed wheel holds: all modules import, and no file of theirs is missing.

    python -I tests/helpers/installed.py

`-I`, from a folder away from the checkout, keeps Python from importing the checkout instead.
"""

import importlib
import importlib.util
import pathlib
import pkgutil

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("keras_bt", "trainers", "export")
WANTED = {".py", ".css", ".flags", ".js", ".json", ".typed"}


def files(root):
    """The packages' files below a folder, as paths relative to it."""
    below = (path for package in PACKAGES for path in (root / package).rglob("*"))
    return {str(path.relative_to(root)) for path in below if path.suffix in WANTED}


def modules():
    """The names of all packages and modules, without those for JAX where that is not installed."""
    has_jax = importlib.util.find_spec("jax") is not None
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield name
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if has_jax or "jax" not in module.name.split("."):
                yield module.name


def main():
    """Checks, and says how much was checked."""
    root = pathlib.Path(importlib.import_module(PACKAGES[0]).__file__).parents[1]
    if root == CHECKOUT:
        raise SystemExit("error: This is the checkout. Call it from elsewhere, with python -I.")
    wanted = files(CHECKOUT)
    missing = sorted(wanted - files(root))
    if missing:
        raise SystemExit(f"error: The installed packages must be complete. Missing: {missing}")
    names = list(modules())
    for name in names:
        importlib.import_module(name)
    print(f"{len(wanted)} files are there, and {len(names)} modules import from {root}")


if __name__ == "__main__":
    main()

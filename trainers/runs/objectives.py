"""The objectives that `--objective` names: one table of how each is made from the settings."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """One objective.

    Attributes:
        title: its name in tables and plots.
        settings: the names of those settings that apply to some objectives only, and to this one.
        make: function of the module `keras_bt.objectives`, which imports TensorFlow, and of the
            settings.
    """

    title: str
    settings: tuple[str, ...]
    make: Callable[[Any, Any], Any]


OBJECTIVES = {
    "barlow_twins": Kind(
        "Barlow Twins",
        ("redundancy_weight", "form"),
        lambda of, s: of.BarlowTwinsObjective(s.redundancy_weight, s.form),
    ),
    "mixed": Kind(
        "Mixed Barlow Twins",
        ("redundancy_weight", "form", "mixed_weight"),
        lambda of, s: of.MixedBarlowTwins(s.redundancy_weight, s.form, s.mixed_weight, s.seed),
    ),
    "info_nce": Kind("InfoNCE", ("temperature",), lambda of, s: of.InfoNCE(s.temperature)),
    "dcl": Kind("DCL", ("temperature",), lambda of, s: of.DecoupledContrastive(s.temperature)),
    "vicreg": Kind(
        "VICReg",
        ("vicreg_weights", "form"),
        lambda of, s: of.VICReg(*s.vicreg_weights, form=s.form),
    ),
}
UNRECORDED = {"objective": "barlow_twins"}  # in runs from before there were others
# The settings that apply to some objectives only.
PARTICULAR = tuple(dict.fromkeys(name for kind in OBJECTIVES.values() for name in kind.settings))


def make(settings):
    """Makes the `keras_bt.objectives.Objective` of settings."""
    from keras_bt import objectives

    return OBJECTIVES[settings.objective].make(objectives, settings)


def title(objective, settings):
    """Names an objective in tables and plots; None stands for that of the settings."""
    if objective is None:
        return OBJECTIVES[settings.objective].title
    name = type(objective).__name__
    return OBJECTIVES["barlow_twins"].title if name == "BarlowTwinsObjective" else name

"""The objectives that `--objective` names: one table of how each is made from the settings."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """One objective.

    Attributes:
        settings: the names of those settings that apply to some objectives only, and to this one.
        make: function of the module `keras_bt.objectives`, which imports TensorFlow, and of the
            settings.
    """

    settings: tuple[str, ...]
    make: Callable[[Any, Any], Any]


OBJECTIVES = {
    "barlow_twins": Kind(
        ("redundancy_weight", "form"),
        lambda module, s: module.BarlowTwinsObjective(s.redundancy_weight, s.form),
    ),
    "mixed": Kind(
        ("redundancy_weight", "form", "mixed_weight"),
        lambda module, s: module.MixedBarlowTwins(
            s.redundancy_weight, s.form, s.mixed_weight, s.seed
        ),
    ),
    "info_nce": Kind(("temperature",), lambda module, s: module.InfoNCE(s.temperature)),
    "dcl": Kind(("temperature",), lambda module, s: module.DecoupledContrastive(s.temperature)),
    "vicreg": Kind(
        ("vicreg_weights", "form"),
        lambda module, s: module.VICReg(*s.vicreg_weights, form=s.form),
    ),
}
UNRECORDED = {"objective": "barlow_twins"}  # in runs from before there were others
# The settings that apply to some objectives only.
PARTICULAR = tuple(dict.fromkeys(name for kind in OBJECTIVES.values() for name in kind.settings))


def not_of(name):
    """Returns the names of the settings that belong to other objectives than this one."""
    return set(PARTICULAR) - set(OBJECTIVES[name].settings)


def make(settings):
    """Makes the `keras_bt.objectives.Objective` of settings."""
    from keras_bt import objectives

    return OBJECTIVES[settings.objective].make(objectives, settings)

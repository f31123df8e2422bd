"""Self-supervised objectives on the embeddings of two views."""

from keras_bt.objectives.barlow_twins import (
    BarlowTwinsObjective,
    barlow_twins_loss,
    barlow_twins_terms,
    cross_correlation,
    loss_floor,
)
from keras_bt.objectives.objective import Objective, OneReplica

__all__ = [
    "BarlowTwinsObjective",
    "Objective",
    "OneReplica",
    "barlow_twins_loss",
    "barlow_twins_terms",
    "cross_correlation",
    "loss_floor",
]

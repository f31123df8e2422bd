"""Self-supervised objectives on the embeddings of two views."""

from keras_bt.objectives.barlow_twins import (
    BarlowTwinsObjective,
    barlow_twins_loss,
    barlow_twins_terms,
    cross_correlation,
    loss_floor,
)
from keras_bt.objectives.contrastive import DecoupledContrastive, InfoNCE
from keras_bt.objectives.mixed import MixedBarlowTwins
from keras_bt.objectives.objective import Mixing, Objective, OneReplica
from keras_bt.objectives.vicreg import VICReg

__all__ = [
    "BarlowTwinsObjective",
    "DecoupledContrastive",
    "InfoNCE",
    "MixedBarlowTwins",
    "Mixing",
    "Objective",
    "OneReplica",
    "VICReg",
    "barlow_twins_loss",
    "barlow_twins_terms",
    "cross_correlation",
    "loss_floor",
]

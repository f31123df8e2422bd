"""Self-supervised objectives on the embeddings of two views."""

from keras_bt.objectives.barlow_twins import (
    OneReplica,
    barlow_twins_loss,
    barlow_twins_terms,
    cross_correlation,
    loss_floor,
)

__all__ = [
    "OneReplica",
    "barlow_twins_loss",
    "barlow_twins_terms",
    "cross_correlation",
    "loss_floor",
]

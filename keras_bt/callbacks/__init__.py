"""Keras callbacks, usable with plain `model.fit`."""

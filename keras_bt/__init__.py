"""Barlow Twins self-supervised learning for Keras 3 and TensorFlow."""

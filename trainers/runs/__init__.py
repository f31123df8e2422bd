"""Runs: the training, measuring and monitoring behind the commands."""

"""Experiments: sweeps over settings, objectives other than the paper's, tables and plots."""

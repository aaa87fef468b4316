"""Formulas of metrics on tensors, independent of models, data sets and files."""

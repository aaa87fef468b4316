"""Formulas of metrics, tensors in and numbers out: no model, no data set, no file."""

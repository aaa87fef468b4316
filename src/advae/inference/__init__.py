"""Black-box posteriors: variational inference for any log joint density."""

"""Training: recipes, steps, optimizers, backends, checkpoints and the loop."""

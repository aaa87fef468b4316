"""Training: the configuration of a run, the step, players and their optimisers, checkpoints, the one loop."""

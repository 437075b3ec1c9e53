"""Training: the two updates, the loop that alternates them, checkpoints, averages and monitors."""

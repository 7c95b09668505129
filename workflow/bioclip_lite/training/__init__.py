"""Train models: the trainer, its objectives and losses, checkpoints, several processes."""

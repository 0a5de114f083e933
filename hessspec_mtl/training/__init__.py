"""Training that can be stopped and gone on with: what is trained, checkpoints, predictions."""

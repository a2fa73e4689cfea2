"""Tasks, and the trainers that fit a model on a split."""

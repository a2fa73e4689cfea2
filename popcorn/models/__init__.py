"""Layers, pretrained checkpoints, and what a run's folder holds of a model."""

"""Loads the model of a finished run, and predicts new texts with it."""

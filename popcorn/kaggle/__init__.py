"""Exports a script as a Kaggle kernel, and estimates which GPU it needs."""

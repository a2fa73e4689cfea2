"""The flow of a run, its folder, and its saved results."""

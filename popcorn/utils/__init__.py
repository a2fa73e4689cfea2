"""Files, caches, hardware, packages and progress bars."""

"""The package that the scripts use: data, models, training, runs, inference and reports."""

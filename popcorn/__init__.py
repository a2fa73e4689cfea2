"""The plumbing behind the scripts: data, text, vectors, batches, training loop, submissions, scores, results."""

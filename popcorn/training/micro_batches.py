"""Reviews for Hugging Face's Trainer: the PyTorch loop's batches, divided into micro-batches."""

from collections.abc import Iterator

import numpy as np
from accelerate import PartialState
from torch.utils.data import Dataset, Sampler

from popcorn.data.batching import EncodedReviews, length_grouped_batches


class ReviewDataset(Dataset):
    """Some rows of the reviews, in the format of the library's collators."""

    def __init__(self, reviews: EncodedReviews, rows: np.ndarray, labels: np.ndarray | None = None):
        """rows (n,) of `reviews`; labels or probabilities of all reviews, or None to predict."""
        self.reviews, self.rows, self.labels = reviews, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        label = {} if self.labels is None else {"labels": self.labels[row].item()}
        return {"input_ids": self.reviews.reviews[row].tolist()} | label


class LengthGroupedBatchSampler(Sampler):
    """The PyTorch loop's batches, divided into micro-batches, as indices into a dataset.

    Each process gets its own micro-batches.
    """

    def __init__(self, dataset: ReviewDataset, batch_size: int, micro_batch_size: int, seed: int):
        self.lengths = dataset.reviews.lengths[dataset.rows]
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.batches = -(-len(dataset) // batch_size)
        self.process, self.processes = PartialState().process_index, PartialState().num_processes
        # the same number of micro-batches for every process, none of them empty
        smallest = len(dataset) // self.batches
        self.accumulation = max(1, min(-(-batch_size // (micro_batch_size * self.processes)), smallest // self.processes))

    def __len__(self) -> int:
        return self.batches * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        indices = np.arange(len(self.lengths))
        for batch in length_grouped_batches(indices, self.lengths, self.batch_size, self.seed * 1_000 + self.epoch):
            micro_batches = np.array_split(batch, self.accumulation * self.processes)
            yield from (micro_batch.tolist() for micro_batch in micro_batches[self.process :: self.processes])

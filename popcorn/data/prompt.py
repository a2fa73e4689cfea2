"""A review within a prompt whose next word is its sentiment.

A decoder then needs no new head: it classifies with what it learned in pretraining (Schick & Schütze 2021, section 3).
"""

import numpy as np
from transformers import PreTrainedTokenizerBase

from popcorn.data.batching import EncodedReviews, truncate_head_tail
from popcorn.errors import UserError

REVIEW = "{review}"
"""the place of the review in a prompt's text"""
FEWEST = 8
"""minimum number of a review's own tokens"""


class Prompt:
    """The token ids around a review, and those of the two label words."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str, label_words: tuple[str, str], max_length: int):
        """text: with `{review}` once; label_words: for a negative and for a positive review.

        Raises `UserError` where the text lacks the review's place or ends in a space, a label word is not a single token after
        the prompt, or `max_length` leaves no room for a review.
        """
        if text.count(REVIEW) != 1:
            raise UserError(f"--prompt has {REVIEW} {text.count(REVIEW)} times: write it once, where the review is to stand")
        if text != text.rstrip():
            raise UserError("--prompt ends in a space or a line break, and the label word has its own space: leave it out")
        self.tokenizer, self.max_length = tokenizer, max_length
        before, after = text.split(REVIEW)
        start = tokenizer("")["input_ids"][:1]  # Llama and Gemma start every text with a token, Qwen and Phi do not
        self.start = np.array(start if start == [tokenizer.bos_token_id] else [], np.int32)
        self.before, self.after, self.between = (np.array(self._ids(part), np.int32) for part in (before, after, "\n\n"))
        self.label_ids = tuple(self._label_id(after, word) for word in label_words)
        if self.label_ids[0] == self.label_ids[1]:
            raise UserError(f"--label-words are {' and '.join(label_words)}: give two different words")
        # one token is left for the label word
        self.room = max_length - len(self.start) - len(self.before) - len(self.after) - 1
        if self.room < FEWEST:
            raise UserError(
                f"--max-length is {max_length}, and the prompt has {max_length - self.room} tokens besides the review: give at "
                f"least {max_length - self.room + FEWEST}"
            )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _label_id(self, after: str, word: str) -> int:
        """The token of the word, with a space before it, at the prompt's end."""
        ids, first = self._ids(f"{after} {word}"), len(self.after)
        if ids[:first] != self.after.tolist() or len(ids) != first + 1 or ids[-1] == self.tokenizer.unk_token_id:
            raise UserError(
                f"the label word {word!r} is not one token of this model's tokenizer after the prompt: give two other words with "
                "--label-words"
            )
        return ids[-1]

    def around(self, review: np.ndarray, room: int) -> np.ndarray:
        """The prompt with the review's subwords, truncated to `room` tokens."""
        return np.concatenate([self.before, truncate_head_tail(review, room), self.after])

    def example(self, review: np.ndarray, label: int, room: int) -> np.ndarray:
        """A labeled review, to stand before that to classify (Brown et al. 2020): prompt, label word, empty line."""
        return np.concatenate([self.around(review, room), np.array([self.label_ids[label]], np.int32), self.between])

    def encode(self, contents: list[np.ndarray], examples: np.ndarray) -> EncodedReviews:
        """The subwords of each review as a prompt, after the tokens of all examples."""
        first = np.concatenate([self.start, examples]).astype(np.int32)
        whole = [np.concatenate([first, self.around(review, self.room)]) for review in contents]
        return EncodedReviews(whole, self.max_length + len(examples), self.tokenizer.pad_token_id)


NO_EXAMPLES = np.zeros(0, np.int32)

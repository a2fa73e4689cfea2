"""Qwen3 without any training: two words' log-probabilities after a prompt (Brown et al. 2020).

A prompt ends where the sentiment of the review would follow. The log-odds of a positive review are the logit of " positive" minus
that of " negative". No text is generated, so every review has a probability. With --shots, labeled reviews come before each
review. With --calibrate, the words' own preference is subtracted: the log-odds of a text without content (Zhao et al. 2021).
"""

from dataclasses import dataclass

from popcorn.config import Count, EvenCount, ZeroShotConfig, parse
from popcorn.runs.run import run
from popcorn.training.zero_shot import ZeroShotTask, ZeroShotTrainer


@dataclass
class Config(ZeroShotConfig):
    """This method's options, in addition to those of all scripts."""

    model: str = "Qwen/Qwen3-1.7B"
    """a Qwen3, Gemma 3 (text), Llama 3 or Phi model on the Hugging Face hub, on Kaggle (owner/model/framework/variation),
    or in a local folder"""
    prompt: str = "Movie review:\n{review}\nThe sentiment of this review, negative or positive, is"
    """text around each review; a label word would follow it"""
    label_words: tuple[str, str] = ("negative", "positive")
    """words for a negative and for a positive review, each a single token with the space before it"""
    max_length: Count = 512
    """maximum number of tokens of a prompt without its examples; of a longer review, a quarter of them are from its start
    and the rest from its end"""
    shots: EvenCount = 0
    """number of labeled examples, half of each class: the same for all reviews, and none from the validation set"""
    shot_length: Count = 128
    """maximum number of tokens of an example's review"""
    calibrate: bool = False
    """divide the label words' probabilities by those after a text without content"""


if __name__ == "__main__":
    run(ZeroShotTask(parse(Config)), ZeroShotTrainer())

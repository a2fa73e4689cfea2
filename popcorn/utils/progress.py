"""A progress bar for gensim's training."""

from tqdm import tqdm

from popcorn.utils.packages import needs

with needs("gensim", "training word vectors"):
    from gensim.models.callbacks import CallbackAny2Vec


class EpochBar(CallbackAny2Vec):
    """A progress bar over epochs, as a callback for gensim's models."""

    def __init__(self, what: str, epochs: int):
        self.bar = tqdm(desc=what, total=epochs, unit="epoch")

    def on_epoch_end(self, model):
        self.bar.update()

    def on_train_end(self, model):
        self.bar.close()

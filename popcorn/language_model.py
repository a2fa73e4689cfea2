"""Masked-language-model training on the competition's own reviews before fine-tuning.

Devlin et al. 2019, section 3.1, task 1, on the reviews of the task itself (Sun et al. 2019, section 5.4; Gururangan et al. 2020).
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import find_executable_batch_size
from transformers import AutoModel, AutoModelForMaskedLM, DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from popcorn.batches import Reviews
from popcorn.config import FineTuneConfig
from popcorn.errors import UserError, say
from popcorn.files import fingerprint
from popcorn.optimiser import optimiser_and_schedule
from popcorn.pretrained import parameter_groups, recompute_activations
from popcorn.trainer import RECOMPUTE, MicroBatches, ReviewTrainer, Rows, Watch, arguments, halvings, last_checkpoint

MASKED = 0.15
"""share of the subwords that the model has to guess"""


class FurtherPretraining:
    """A checkpoint made from another by reading the reviews, kept under a name that holds all it depends on."""

    def __init__(self, config: FineTuneConfig, reviews: Reviews, tokeniser: PreTrainedTokenizerBase, content: str):
        """`content`: checksum of the checkpoint and of the reviews, of which `--limit` takes the first."""
        self.config = replace(
            config, epochs=config.pretrain_epochs, learning_rate=config.pretrain_rate, layer_decay=1.0, name="language model"
        )
        self.checkpoint, self.tokeniser = config.checkpoint, tokeniser
        self.dataset = Rows(reviews, np.arange(len(reviews))[: config.limit])
        key = fingerprint(
            content, config.limit, config.max_tokens, config.batch_size, config.pretrain_epochs, config.pretrain_rate, config.seed
        )
        self.folder = config.output_dir / "runs" / "further-pretrained" / f"{Path(config.model).name}-{key[:12]}"
        """where the new checkpoint is, once `train` has made it"""

    def train(self, deadline: float) -> None:
        """Makes the checkpoint, from where an earlier run was stopped. Raises `UserError` where the time ends before."""
        if self.folder.is_dir():
            say(f"The further pretrained model in {self.folder} is used again")
            return
        own = self.folder.with_name(self.folder.name + ".training")
        say(f"Further pretraining on {len(self.dataset):,} reviews")
        size = self.config.batch_size
        trainer, watch = find_executable_batch_size(self._train, size, reduce_batch_size_fn=halvings(size))(own, deadline)
        if watch.is_out_of_time:
            raise UserError(
                f"the time budget ended in the further pretraining, after {trainer.state.global_step:,} of "
                f"{trainer.state.max_steps:,} steps, and there is nothing to submit yet: the same command goes on from there"
            )
        if PartialState().is_main_process:
            whole = AutoModel.from_pretrained(self.checkpoint, dtype="float32")
            # a language model has no pooler: the checkpoint's own stays
            whole.load_state_dict(trainer.model.base_model.state_dict(), strict=False)
            whole.save_pretrained(own / "model")
            self.tokeniser.save_pretrained(own / "model")
            (own / "model").rename(self.folder)
            shutil.rmtree(own)
        trainer.accelerator.free_memory()
        PartialState().wait_for_everyone()

    def _train(self, micro_batch: int, own: Path, deadline: float) -> tuple[ReviewTrainer, Watch]:
        config = self.config
        model = AutoModelForMaskedLM.from_pretrained(self.checkpoint, dtype="float32")
        if micro_batch <= RECOMPUTE and micro_batch < config.batch_size:
            recompute_activations(model)
        batches = MicroBatches(self.dataset, config.batch_size, micro_batch, config.seed)
        watch = Watch(batches, config.checkpoint_every, deadline, predictions=0)
        groups = parameter_groups(model, model.config.num_hidden_layers, config)
        trainer = ReviewTrainer(
            model, batches, args=arguments(config, own, batches, micro_batch, num_train_epochs=config.epochs),
            data_collator=DataCollatorForLanguageModeling(self.tokeniser, mlm_probability=MASKED), train_dataset=self.dataset,
            optimizers=optimiser_and_schedule(groups, config, batches.batches), callbacks=[watch],
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=last_checkpoint(own))
        return trainer, watch

"""The options that every script has, and how the command line becomes a dataclass of them (tyro).

Nothing here loads torch: `--help` and a mistyped option are answered at once.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar, get_args, get_type_hints

import psutil
import tyro

from popcorn.errors import UserError, exit_on_user_error, uncaught

STARTED = time.monotonic() - (0.0 if "ipykernel" in sys.modules else time.time() - psutil.Process().create_time())
"""when this process began, or in a notebook, whose process is older, when this module was imported"""
Config = TypeVar("Config")
ADAPTER = "runs/deberta_lora/seed-1/refit/model"
"""an example of where a run leaves its adapter"""


@dataclass(frozen=True)
class Bound:
    """Which values an option may have, and what to give instead."""

    allows: Callable[[float], bool]
    advice: str


Count = Annotated[int, Bound(lambda value: value >= 1, "give a whole number of at least 1")]
FoldCount = Annotated[int, Bound(lambda value: value >= 2, "give a whole number of at least 2")]
Seed = Annotated[int, Bound(lambda value: 0 <= value < 2**32, f"give a whole number from 0 to {2**32 - 1}")]
Positive = Annotated[float, Bound(lambda value: 0 < value < inf, "give a number above 0")]
NonNegative = Annotated[float, Bound(lambda value: 0 <= value < inf, "give 0, or a number above it")]
Probability = Annotated[float, Bound(lambda value: 0 <= value < 1, "give a number from 0 to less than 1")]


def require_bounds(options: object) -> None:
    """Raises `UserError` for an option whose value its type's `Bound` does not allow."""
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name, None)
        for bound in _bounds_of(hint):
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            if value == () or not all(bound.allows(each) for each in values):
                raise UserError(f"--{name.replace('_', '-')} is {value}: {bound.advice}")


def _bounds_of(hint: object) -> Iterator[Bound]:
    """Those of the type itself and of its parts, such as of `Count | None`."""
    yield from (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Bound))
    for part in get_args(hint):
        if not isinstance(part, Bound):
            yield from _bounds_of(part)


def expand_home(options: object) -> None:
    """Puts the home folder in the place of `~` in all paths among the options, as a shell does where it sees one.

    A model may be a path too. An unknown user's `~name` stays, so that the folder is not found.
    """
    for name, value in list(vars(options).items()):
        if isinstance(value, Path):
            setattr(options, name, Path(os.path.expanduser(value)))
        elif isinstance(value, tuple) and any(isinstance(each, Path) for each in value):
            setattr(options, name, tuple(Path(os.path.expanduser(each)) for each in value))
        elif name == "model" and isinstance(value, str):
            setattr(options, name, os.path.expanduser(value))


@dataclass
class RunConfig:
    """Options of every script."""

    data_dir: Path | None = None
    """folder with the competition's files; else $POPCORN_DATA, Kaggle's input folder, data/, the embedded default"""
    output_dir: Path = Path(".")
    """folder that receives submissions/, runs/ and results/"""
    name: str = ""
    """name of the submission and of the results; the script's own name where it is empty"""
    seed: Seed = 1
    """seed of the weights, the batches and the dropout; the validation split is the same for all seeds. Models that train word
    vectors or paragraph vectors with several workers differ all the same from run to run: see their --deterministic"""
    max_train_samples: Count | None = None
    """a quick try: fit on so many training reviews (the test is predicted whole)"""
    split_by: Literal["movie", "random"] = "movie"
    """hold out films, by blocks of id numbers, or reviews at random, which reads too high: the test is of other films"""
    folds: FoldCount | None = None
    """fit so many models, each validated on another part; saves out-of-fold probabilities and averages the test's"""
    refit: bool = True
    """once validation has chosen, fit on all training reviews for the submission (not with --folds)"""
    no_validation: bool = False
    """fit on all training reviews at once, unvalidated: for more seeds of a recipe that validation has chosen"""
    save_results: bool = False
    """write the figures to results/<name>.json, which the leaderboard is made from"""

    def __post_init__(self):
        expand_home(self)
        require_bounds(self)
        if self.no_validation and (self.folds or not self.refit):
            raise UserError(f"--no-validation is the refit alone: leave {'--folds' if self.folds else '--no-refit'} out")
        if self.save_results and self.max_train_samples is not None:
            raise UserError(
                "--save-results with --max-train-samples would replace the results of the whole data: leave one of the two out"
            )

    def prepare(self, script: str) -> None:
        """What can be done and refused before anything large is imported: `script` gives the run its name."""
        self.name = self.name or script


@dataclass
class TrainingConfig(RunConfig):
    """Options of everything that is trained by gradients, whichever engine trains it."""

    max_length: Count = 400
    """longer reviews keep their first quarter and last three quarters of so many tokens: the verdict stands at the end"""
    epochs: Count = 3
    """at most so many passes over the training reviews"""
    patience: Count = 2
    """stop after so many epochs without a better ROC AUC in validation"""
    batch_size: Count = 128
    """reviews a step, over all processes"""
    learning_rate: Positive = 3e-3
    """AdamW's peak, reached after the warm-up and followed by a linear decay to zero"""
    warmup_ratio: Probability = 0.1
    """share of the steps that the learning rate takes to rise"""
    weight_decay: NonNegative = 0.01
    """AdamW's decoupled decay (Loshchilov & Hutter 2019)"""
    max_grad_norm: Positive = 1.0
    """largest norm of the gradient"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware has it, fp16 on older GPUs, fp32 else"""
    checkpoint_every: Count = 200
    """steps between two checkpoints"""
    resume: bool = False
    """go on where a run of the same name, seed and options was stopped or killed"""
    time_budget: str | None = None
    """stop in time to write a submission within so long, e.g. 8h30m or 20m; --resume goes on later"""


@dataclass
class WordVectorConfig(TrainingConfig):
    """Options of every model over word vectors, and the recipe they share; a script overrides what its model needs."""

    word_vectors: Path | None = None
    """GloVe text, its zip, or a .kv file of glove-gensim.py; else word2vec trained on the competition's training reviews"""
    vector_size: Count | None = None
    """refuse vectors of another width; any width where it is not given"""
    embedding_lr_scale: Positive = 0.1
    """the word vectors' learning rate as a share of the others'"""
    pseudo_labels: bool = False
    """train on the unlabeled reviews too, by the probabilities of an NB-SVM that was trained on the labeled ones"""
    deterministic: bool = False
    """train word2vec with one worker: 1.4 times slower on two processors, and more on many. The same command then gives the same
    submission in every folder, on the same machine without a GPU (with one, torch adds up in an order of its own)"""

    def prepare(self, script: str) -> None:
        """A run that learns from more has a name of its own."""
        super().prepare(script + ("-pseudo-labels" if self.pseudo_labels else ""))


@dataclass
class PretrainedConfig(TrainingConfig):
    """Options of every pretrained model; a script names its own model and overrides what that needs."""

    MODEL_TYPE: ClassVar[str] = ""
    """the `model_type` that a checkpoint's config.json must name"""
    checkpoint: ClassVar[Path | None] = None
    """the local folder of `model`, once `popcorn.models.hub.find_checkpoint` has found it"""

    model: str = ""
    """a model's id on the Hugging Face hub, or the folder of one (on Kaggle: Add Input, Models)"""
    max_length: Count = 512
    """longer reviews keep their first quarter and last three quarters of so many tokens (section 5.3.1, head+tail)"""
    batch_size: Count = 32
    """reviews a step, over all processes"""
    micro_batch_size: Count | None = None
    """so many of them at a time, for the same gradient; else as many as memory holds (on several GPUs all: give it there)"""

    def prepare(self, script: str) -> None:
        """A checkpoint that is not the script's own gives the run another name."""
        last = Path(self.model).parts[-1:]
        if last and last[0].isdigit():  # Kaggle's folders end in framework, variation and version
            last = Path(self.model).parts[-4:]
        super().prepare("-".join([script, *last]) if self.model != type(self).model else script)


@dataclass
class FineTuneConfig(PretrainedConfig):
    """Options of the models that are trained as a whole, and the recipe of Sun et al. 2019 that they share."""

    learning_rate: Positive = 3e-5
    """AdamW's peak for the topmost layers, reached after the warm-up and followed by a linear decay to zero"""
    layer_decay: Positive = 0.95
    """each layer learns at so many times the rate of the one above it (section 5.3.4)"""
    attention_dropout: Probability = 0.1
    """share of the attention's weights that are zeroed in training; at 0 torch's fused kernel for a CPU serves, twice as fast"""
    rdrop_alpha: NonNegative = 0.0
    """weight of the divergence between two passes with different dropout (R-Drop, Wu et al. 2021: alpha); 0 for one pass"""
    further_pretrain: bool = False
    """first train the language model on all training reviews, labeled or not (section 5.4); kept and used again"""
    pretrain_epochs: Count = 3
    """passes over those reviews"""
    pretrain_learning_rate: Positive = 5e-5
    """peak of the learning rate in them"""

    def prepare(self, script: str) -> None:
        """A run that learns from more has a name of its own."""
        super().prepare(script + ("-further-pretrained" if self.further_pretrain else ""))


@dataclass
class AdapterConfig(PretrainedConfig):
    """Options of the models whose weights stay as they are, but for the pooler and the head, and a small adapter that learns."""

    max_length: Count = 256
    """longer reviews keep their first quarter and last three quarters of so many tokens (Sun et al. 2019, head+tail)"""
    bits: Literal[4, 8, 16, 32] | None = None
    """of a frozen weight; else 8 on GPUs from compute capability 7.5 on (a T4), 4 on older ones (a P100), 32 on a CPU"""
    head_learning_rate: Positive = 1e-3
    """peak of the learning rate of the pooler and the classifier, which DeBERTa's checkpoints do not have"""
    adapter: Path | None = None
    """folder of an adapter that an earlier run has left: predict with it and train nothing"""

    def __post_init__(self):
        super().__post_init__()
        if self.adapter and (self.folds or self.save_results or not self.refit):
            raise UserError("--adapter trains nothing and predicts: leave --folds, --save-results and --no-refit out")
        self.no_validation |= self.adapter is not None

    def prepare(self, script: str) -> None:
        """What an adapter predicts has a name of its own: the run that made it stays."""
        if self.adapter and not (self.adapter / "adapter_config.json").is_file():
            raise UserError(f"--adapter {self.adapter} is no folder with an adapter: give one such as {ADAPTER}")
        super().prepare(script + ("-predicted" if self.adapter else ""))


def parse(config: type[Config]) -> Config:
    """The command line as `config`; leaves with exit code 2 and one sentence where it is wrong."""
    script = Path(sys.argv[0])
    sys.excepthook = uncaught
    with exit_on_user_error():
        options = tyro.cli(config, prog=f"python {script.name}", description=sys.modules["__main__"].__doc__)
        expand_home(options)
        if isinstance(options, RunConfig):
            options.prepare(script.stem)
    return options

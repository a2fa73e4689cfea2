"""Options of all scripts, and how the command line becomes a dataclass (tyro).

Nothing here imports torch, so a mistyped option fails immediately.
"""

import os
import re
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
from popcorn.option_groups import grouped

sys.excepthook = uncaught  # a script imports this module before everything else of popcorn
STARTED = time.monotonic() - (0.0 if "ipykernel" in sys.modules else time.time() - psutil.Process().create_time())
"""start time of this process; in a notebook, whose process is older, the time of this module's import"""
Config = TypeVar("Config")
KAGGLE_HANDLE = re.compile(r"[\w-]+/[\w.-]+/\w+/[\w.-]+(/\d+)?")
"""name of a model on Kaggle: owner/model/framework/variation, or with a version at the end"""
NBSVM = "nbsvm"
"""the teacher that needs no run"""
TEACHER_FILES = ".csv", ".csv.gz", ".csv.zip"
"""endings of a teacher that is a file of probabilities"""
HELP = {"-h", "--help"}
ADAPTER = "runs/deberta_lora/seed-1/refit/model"
"""an example of a folder with a saved adapter"""
DECODERS = ("qwen3", "gemma3_text", "llama", "phi", "phi3")
"""model types of the decoders in popcorn/models/label_words.py"""


@dataclass(frozen=True)
class Bound:
    """The values that an option may have, and the advice for any other value."""

    allows: Callable[[float], bool]
    advice: str


Count = Annotated[int, Bound(lambda value: value >= 1, "give a whole number of at least 1")]
FoldCount = Annotated[int, Bound(lambda value: value >= 2, "give a whole number of at least 2")]
Seed = Annotated[int, Bound(lambda value: 0 <= value < 2**32, f"give a whole number from 0 to {2**32 - 1}")]
Positive = Annotated[float, Bound(lambda value: 0 < value < inf, "give a number above 0")]
NonNegative = Annotated[float, Bound(lambda value: 0 <= value < inf, "give 0, or a number above it")]
Probability = Annotated[float, Bound(lambda value: 0 <= value < 1, "give a number from 0 to less than 1")]
EvenCount = Annotated[int, Bound(lambda value: value >= 0 and value % 2 == 0, "give 0 or an even number, half of each class")]


def require_bounds(options: object) -> None:
    """Raises `UserError` for an option whose value the `Bound` of its type does not allow."""
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name, None)
        for bound in _bounds_of(hint):
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            if value == () or not all(bound.allows(each) for each in values):
                raise UserError(f"--{name.replace('_', '-')} is {value}: {bound.advice}")


def _bounds_of(hint: object) -> Iterator[Bound]:
    """The bounds of a type and of its parts, such as of `Count | None`."""
    yield from (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Bound))
    for part in get_args(hint):
        if not isinstance(part, Bound):
            yield from _bounds_of(part)


def expand_home(options: object) -> None:
    """Expands `~` in all options that are paths, as a shell does.

    A model or a teacher may be a path too. The `~name` of an unknown user stays as it is, and the folder is then not found.
    """
    for name, value in list(vars(options).items()):
        if isinstance(value, Path):
            setattr(options, name, Path(os.path.expanduser(value)))
        elif isinstance(value, tuple) and any(isinstance(each, Path) for each in value):
            setattr(options, name, tuple(Path(os.path.expanduser(each)) for each in value))
        elif name in ("model", "pseudo_labels") and isinstance(value, str):
            setattr(options, name, os.path.expanduser(value))


def is_kaggle_handle(model: str) -> bool:
    """Whether `model` is the name of a model on Kaggle, and not a folder here."""
    return KAGGLE_HANDLE.fullmatch(model) is not None and not Path(model).is_dir()


@dataclass
class RunConfig:
    """Options of every script."""

    data_dir: Path | None = None
    """folder with the competition's files; default: $POPCORN_DATA, Kaggle's input folder, data/, or the fallback data, the
    first that exists"""
    output_dir: Path = Path(".")
    """folder for submissions/, runs/ and results/"""
    name: str = ""
    """name of the submission and of the results; default: the script's name"""
    seed: Seed = 1
    """random seed of weights, batches and dropout; the validation split is the same for all seeds. Word vectors and paragraph
    vectors trained with several workers still differ from run to run: see --deterministic"""
    max_train_samples: Count | None = None
    """train on at most N training reviews, for a quick try (the whole test set is predicted)"""
    split_by: Literal["movie", "random"] = "movie"
    """validate on held-out movies (blocks of id numbers) or on random reviews; random is too optimistic, because the test set
    has other movies"""
    folds: FoldCount | None = None
    """number of cross-validation folds, one model each; saves out-of-fold probabilities and averages the test probabilities"""
    refit: bool = True
    """after validation, train on all training reviews for the submission (not with --folds)"""
    no_validation: bool = False
    """train on all training reviews without validation, for a fixed number of epochs: for more seeds of a validated recipe"""
    save_results: bool = False
    """save the metrics to results/<name>.json, the source of the leaderboard"""

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
        """Names the run and checks options, before the slow imports."""
        self.name = self.name or script


@dataclass
class TrainingConfig(RunConfig):
    """Options of all models that are trained by gradient descent."""

    max_length: Count = 400
    """maximum number of tokens; of a longer review, a quarter of them are from its start and the rest from its end, where the
    opinion often is"""
    epochs: Count = 3
    """maximum number of epochs"""
    patience: Count = 2
    """early stopping: maximum number of epochs without a better validation ROC AUC"""
    batch_size: Count = 128
    """reviews per optimizer step, over all processes"""
    learning_rate: Positive = 3e-3
    """peak learning rate of AdamW (linear warm-up, then linear decay to 0)"""
    warmup_ratio: Probability = 0.1
    """fraction of the steps used for warm-up"""
    weight_decay: NonNegative = 0.01
    """decoupled weight decay of AdamW (Loshchilov & Hutter 2019)"""
    max_grad_norm: Positive = 1.0
    """gradient clipping: maximum norm of the gradient"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 with hardware support, fp16 on older GPUs, otherwise fp32"""
    checkpoint_every: Count = 200
    """number of steps between two checkpoints"""
    resume: bool = False
    """resume a stopped or killed run of the same name, seed and options"""
    time_budget: str | None = None
    """time limit of the run including its submissions, e.g. 8h30m or 20m; continue later with --resume; default: on Kaggle what
    is left of the session"""
    pseudo_labels: str | None = None
    """train on the unlabeled reviews too, with soft labels from a teacher: nbsvm, which is trained on the labeled ones; the name
    of a finished run or ensemble (if neural, first run python -m popcorn predict --unlabeled --model NAME); or a .csv file of id
    and probability; None: on the labeled ones alone. Each split has a teacher without its validation reviews, except for a file,
    whose model is not known"""

    def prepare(self, script: str) -> None:
        """A run with pseudo-labels has a different name, unless they are the script's default."""
        super().prepare(script + ("" if self.pseudo_labels == type(self).pseudo_labels else _teacher_suffix(self.pseudo_labels)))


def _teacher_suffix(teacher: str | None) -> str:
    """The end of a student's name; it has the teacher's name, except for nbsvm."""
    if teacher is None:
        return "-no-pseudo-labels"
    path = Path(teacher)
    run = f"{path.parent.name}-{path.name}" if path.name.startswith("seed-") else path.name
    for ending in (*TEACHER_FILES, ".unlabeled"):
        run = run.removesuffix(ending)
    return "-pseudo-labels" + ("" if teacher == NBSVM else f"-{run}")


@dataclass
class WordVectorConfig(TrainingConfig):
    """Options of all models over word vectors, and their common recipe.

    A script overrides what its model needs.
    """

    word_vectors: Path | None = None
    """GloVe text file, its zip, or a .kv file of glove-gensim.py; default: word2vec trained on the competition's training
    reviews"""
    vector_size: Count | None = None
    """required dimension of the word vectors; default: any"""
    embedding_lr_scale: Positive = 0.1
    """learning rate of the word vectors, relative to that of the other parameters"""
    deterministic: bool = False
    """train word2vec with one worker: 1.4 times slower on two CPU cores. The same command then gives the same submission in
    every folder, on the same machine without a GPU (a GPU's sums have no fixed order)"""


@dataclass
class PretrainedConfig(TrainingConfig):
    """Options of all pretrained models; a script sets its own checkpoint and recipe."""

    MODEL_TYPE: ClassVar[str | tuple[str, ...]] = ""
    """the required `model_type` in the checkpoint's config.json, or several that it may be"""
    checkpoint: ClassVar[Path | None] = None
    """local folder of `model`; None until `popcorn.models.hub.find_checkpoint` sets it"""

    model: str = ""
    """model id on the Hugging Face hub, a model on Kaggle (owner/model/framework/variation, or with /version), or a local
    folder"""
    max_length: Count = 512
    """maximum number of tokens; of a longer review, a quarter of them are from its start and the rest from its end (head+tail,
    Sun et al. 2019, section 5.3.1)"""
    batch_size: Count = 32
    """reviews per optimizer step, over all processes"""
    micro_batch_size: Count | None = None
    """gradient accumulation: reviews per forward pass, same gradient; default: as many as fit into memory"""

    def prepare(self, script: str) -> None:
        """A checkpoint other than the default gives the run another name."""
        super().prepare(name_with_model(script, self))


def name_with_model(script: str, config: "PretrainedConfig | ZeroShotConfig") -> str:
    """The script's name, with that of a checkpoint other than the default."""
    parts = [part for part in Path(config.model).parts if part not in (Path(config.model).anchor, "..")]
    is_handle = is_kaggle_handle(config.model)
    last = parts[-3:] if is_handle else parts[-1:]
    if last and last[-1].isdigit():  # on Kaggle a version, after model, framework and variation
        last = parts[-4:] if is_handle or {"kaggle", "kagglehub"} & set(parts) else parts[-2:]
    return "-".join([script, *last]) if config.model != type(config).model else script


@dataclass
class FineTuneConfig(PretrainedConfig):
    """Options of fully fine-tuned models, and their common recipe (Sun et al. 2019)."""

    learning_rate: Positive = 3e-5
    """peak learning rate of the top layer (linear warm-up, then linear decay to 0)"""
    layer_decay: Positive = 0.95
    """layer-wise learning rate decay: the factor from each layer to the one below (Sun et al. 2019, section 5.3.4)"""
    attention_dropout: Probability = 0.1
    """dropout probability of the attention weights; with 0, torch uses its fused CPU kernel, which is twice as fast"""
    rdrop_alpha: NonNegative = 0.0
    """R-Drop: weight of the KL divergence between two passes with different dropout (alpha in Liang et al. 2021), or 0"""
    scl: Probability = 0.0
    """supervised contrastive learning: weight of the contrastive loss; cross-entropy has the rest (lambda in Gunel et al. 2021,
    who used 0.9). It compares only reviews of the same micro-batch, so smaller micro-batches or more processes make it weaker; 0
    turns it off"""
    further_pretrain: bool = False
    """first continue masked-language-model pretraining on all training reviews, labeled or not (Sun et al. 2019, section 5.4);
    the result is saved and reused"""
    pretrain_epochs: Count = 3
    """number of epochs of this pretraining"""
    pretrain_learning_rate: Positive = 5e-5
    """peak learning rate of this pretraining"""

    def prepare(self, script: str) -> None:
        """A run with further pretraining has a different name."""
        super().prepare(script + ("-further-pretrained" if self.further_pretrain else ""))


@dataclass
class FrozenConfig(PretrainedConfig):
    """Options of frozen models with a small trainable adapter."""

    max_length: Count = 256
    """maximum number of tokens; of a longer review, a quarter of them are from its start and the rest from its end (head+tail,
    Sun et al. 2019)"""
    bits: Literal[4, 8, 16, 32] | None = None
    """bits of each frozen weight; default: 8 on GPUs with compute capability 7.5 or higher (T4), 4 on older ones, 32 on a
    CPU"""
    adapter: Path | None = None
    """folder of a saved adapter: predict with it, without training"""

    def __post_init__(self):
        super().__post_init__()
        if self.adapter and (self.folds or self.save_results or not self.refit):
            raise UserError("--adapter only predicts, without training: leave --folds, --save-results and --no-refit out")
        if self.adapter and self.pseudo_labels:
            raise UserError("--adapter only predicts, without training: leave --pseudo-labels out")
        self.no_validation |= self.adapter is not None

    def prepare(self, script: str) -> None:
        """Predictions of a saved adapter get a name of their own, so its run stays."""
        if self.adapter and not (self.adapter / "adapter_config.json").is_file():
            raise UserError(f"--adapter {self.adapter} is no folder with an adapter: give one such as {ADAPTER}")
        super().prepare(script + ("-predicted" if self.adapter else ""))


@dataclass
class AdapterConfig(FrozenConfig):
    """Options of frozen models with a small trainable adapter, pooler and head."""

    head_learning_rate: Positive = 1e-3
    """peak learning rate of the pooler and the classifier, which DeBERTa's checkpoints do not include"""


@dataclass
class ZeroShotConfig(RunConfig):
    """Options of pretrained models that classify without training."""

    MODEL_TYPE: ClassVar[str | tuple[str, ...]] = DECODERS
    """the `model_type` that the checkpoint's config.json may have"""
    checkpoint: ClassVar[Path | None] = None
    """local folder of `model`; None until `popcorn.models.hub.find_checkpoint` sets it"""

    model: str = ""
    """model id on the Hugging Face hub, a model on Kaggle (owner/model/framework/variation, or with /version), or a local
    folder"""
    batch_size: Count = 32
    """prompts per forward pass; fewer if memory requires it"""
    bits: Literal[4, 8, 16, 32] | None = None
    """bits of each weight; default: 8 on GPUs with compute capability 7.5 or higher (T4), 4 on older ones, 32 on a CPU"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 with hardware support, fp16 on older GPUs, otherwise fp32"""
    resume: bool = False
    """resume a stopped or killed run of the same name, seed and options"""
    time_budget: str | None = None
    """time limit of the run including its submissions, e.g. 8h30m or 20m; continue later with --resume; default: on Kaggle what
    is left of the session"""
    refit: tyro.conf.Suppress[bool] = False
    """nothing is trained, so there is no refit"""

    def __post_init__(self):
        self.refit = self.no_validation  # whose only split is named so
        super().__post_init__()

    def prepare(self, script: str) -> None:
        """A checkpoint other than the default gives the run another name."""
        super().prepare(name_with_model(script, self))


def parse(config: type[Config]) -> Config:
    """The command line as `config`; exits with code 2 and one sentence for a mistake."""
    script, main = Path(sys.argv[0]), sys.modules["__main__"]
    command = f"-m {main.__spec__.name}" if getattr(main, "__spec__", None) else script.name
    with exit_on_user_error():
        shown = grouped(config) if issubclass(config, RunConfig) and HELP & set(sys.argv[1:]) else config
        options = tyro.cli(shown, prog=f"python {command}", description=main.__doc__)
        expand_home(options)
        if isinstance(options, RunConfig):
            options.prepare(script.stem)
    return options

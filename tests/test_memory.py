"""Memory that runs out: what is recognized, and that training and prediction go on in smaller pieces."""

import errno

import numpy as np
import pretrained
import pytest
import torch
from test_loop import reviews, session_of, train  # noqa: F401
from torch import nn
from transformers import BertForSequenceClassification, DataCollatorWithPadding, TrainingArguments

import deberta_lora
from popcorn import errors
from popcorn.data.batching import EncodedReviews
from popcorn.data.splits import Split
from popcorn.errors import UserError, exit_on_user_error
from popcorn.inference.predictors import Neural
from popcorn.models.tokenizer import load_tokenizer
from popcorn.training.adapters import AdapterTask, PredictOnlyTrainer
from popcorn.training.hf_trainer import predict_probability
from popcorn.training.review_trainer import PredictingTrainer, retry_on_oom

OUT_OF_MEMORY = [
    RuntimeError("CUDA out of memory. Tried to allocate 1 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    torch.OutOfMemoryError("Allocation on device 0 would exceed the limit"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: Error code 12"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:81] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."
    ),
    RuntimeError("NCCL error in: x.cpp:1, unhandled cuda error, NCCL version 2.27\nLast error: Cuda failure 'out of memory'"),
    RuntimeError("two", "arguments: XPU out of memory"),
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(float)),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: device-side assert triggered"),
    ValueError("out of memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    UserError("memory does not suffice: out of memory"),
]
SOME = OUT_OF_MEMORY[1], OUT_OF_MEMORY[5], MemoryError()


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_out_of_memory_errors_are_recognized_and_training_takes_smaller_micro_batches(error):
    tried = []

    def train(size: int) -> int:
        tried.append(size)
        if size > 2:
            raise error
        return size

    assert retry_on_oom(train, 12) == 1 and tried == [12, 6, 3, 1]
    assert errors.is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[:30])
def test_other_errors_are_not_taken_for_out_of_memory(error):
    def train(size: int) -> None:
        tried.append(size)
        raise error

    tried = []
    with pytest.raises(type(error)):
        retry_on_oom(train, 12)
    assert tried == [12] and not errors.is_out_of_memory(error)


@pytest.mark.parametrize("error", SOME, ids=lambda error: str(error)[:30])
def test_where_one_review_is_too_much_there_is_a_sentence(error, capsys):
    def train(size: int) -> None:
        raise error

    with pytest.raises(UserError, match="give a smaller --micro-batch-size"):
        retry_on_oom(train, 2)
    with pytest.raises(SystemExit), exit_on_user_error():  # wherever else it occurs
        raise error
    assert "error: memory does not suffice" in capsys.readouterr().err


class Scarce(nn.Module):
    """Stands in for an embedding: more than `room` reviews are too many for it, in training or in prediction."""

    def __init__(self, inner: nn.Module, room: int, error: Exception, in_training: bool):
        super().__init__()
        self.inner, self.room, self.error, self.in_training = inner, room, error, in_training

    @property
    def weight(self):
        return self.inner.weight

    def forward(self, tokens):
        if len(tokens) > self.room and self.training == self.in_training:
            raise self.error
        return self.inner(tokens)


def scarce(model, **given):
    model.embedding = Scarce(model.embedding, 5, **given)
    return model


@pytest.mark.parametrize("in_training", [True, False])
@pytest.mark.parametrize("error", SOME, ids=lambda error: str(error)[:30])
def test_the_native_loop_goes_on(error, in_training, session_of, capsys):  # noqa: F811
    steady = {"dropout": 0.0, "word_dropout": 0.0, "epochs": 1}
    plenty = train(session_of(folder="plenty", **steady))
    found = train(session_of(lambda model: scarce(model, error=error, in_training=in_training), folder="scarce", **steady))
    assert "Out of memory" in capsys.readouterr().out
    assert np.allclose(plenty.test, found.test, atol=1e-4) and plenty.test.std() > 1e-3
    assert np.allclose(plenty.validation, found.validation, atol=1e-4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    return pretrained.write(tmp_path_factory.mktemp("checkpoint") / "bert", "bert", initializer_range=0.4)


@pytest.fixture
def texts():
    generator = np.random.default_rng(0)
    return EncodedReviews([generator.integers(1_000, 2_000, generator.integers(3, 20)).astype(np.int32) for _ in range(21)], 50)


def library_model(checkpoint, error=None):
    torch.manual_seed(1)
    model = BertForSequenceClassification.from_pretrained(checkpoint, num_labels=2).eval()
    if error:
        model.bert.embeddings.word_embeddings = Scarce(model.bert.embeddings.word_embeddings, 5, error, in_training=False)
    return model


@pytest.mark.parametrize("error", SOME, ids=lambda error: str(error)[:30])
def test_the_trainers_prediction_goes_on(error, checkpoint, texts, tmp_path, capsys):
    """That of its training too, whose evaluation has labels; and that of `--adapter`."""
    options = TrainingArguments(output_dir=str(tmp_path), per_device_eval_batch_size=8, report_to=[], use_cpu=True)
    config = deberta_lora.Config(model=str(checkpoint), output_dir=tmp_path, batch_size=8, precision="fp32")
    config.checkpoint = checkpoint
    tokenizer = load_tokenizer(config)
    collate = DataCollatorWithPadding(tokenizer)
    rows = np.arange(len(texts))
    plenty, few = (PredictingTrainer(library_model(checkpoint, each), options, collate) for each in (None, error))
    wanted = predict_probability(plenty, texts, rows)
    assert np.allclose(predict_probability(few, texts, rows), wanted, atol=1e-6) and wanted.std() > 1e-3
    assert few.pieces.largest == 4 and capsys.readouterr().out.count("Out of memory") == 1
    inputs = {"input_ids": texts.batch(rows)[0], "labels": torch.from_numpy(rows % 2)}
    for ours, theirs in zip(*(each.prediction_step(each.model, dict(inputs), False) for each in (few, plenty)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    task, trainer = AdapterTask(deberta_lora.peft_config, config), PredictOnlyTrainer()
    task.test, task.tokenizer, task.build = texts, tokenizer, lambda config, checkpoint: library_model(checkpoint, error)
    trainer.set_up(task, tmp_path, float("inf"))
    found = trainer.fit(Split("refit", rows, rows[:0]))
    assert np.allclose(found.test, wanted, atol=1e-6)


@pytest.mark.parametrize("error", SOME, ids=lambda error: str(error)[:30])
def test_a_saved_models_prediction_goes_on(error, texts):
    def answer(tokens, lengths):
        if len(tokens) > room:
            raise error
        return tokens.sum(1) / 10_000 - lengths

    embedding = nn.Embedding(2, 2)
    model = Neural(answer, embedding, embedding, lambda given: texts, lambda text: [], num_special_tokens=0)
    room = 100
    wanted = model.probability(["any"])
    room = 2
    assert np.allclose(model.probability(["any"]), wanted, atol=1e-12) and wanted.std() > 0
    room = 0
    with pytest.raises(UserError, match="even one review at a time"):
        model.probability(["any"])

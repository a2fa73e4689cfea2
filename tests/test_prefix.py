"""Prefix tuning for DeBERTa-v2, against attention written out in another way and by finite differences."""

import pretrained
import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import DebertaV2ForSequenceClassification, DynamicCache

from popcorn.models.deberta import DebertaClassifier, PrefixSelfAttention
from popcorn.training.memory import recompute_activations

LENGTHS = (9, 4)
PREFIX = 3


def text(length: int = max(LENGTHS)) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of two reviews."""
    tokens = torch.randint(5, 1000, (2, length), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(length) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    return tokens * mask, mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return pretrained.write(tmp_path_factory.mktemp("deberta"), "deberta-v2", initializer_range=0.3)


@pytest.fixture(scope="module")
def model(folder) -> DebertaClassifier:
    torch.manual_seed(0)
    return DebertaClassifier.from_pretrained(folder, num_labels=2, dtype="float32").eval()


def prefix(model: DebertaClassifier, batch: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer, each (batch, heads, PREFIX, head)."""
    generator = torch.Generator().manual_seed(1)
    size = (batch, model.config.num_attention_heads, PREFIX, model.config.hidden_size // model.config.num_attention_heads)
    return [tuple(torch.randn(size, generator=generator) for _ in range(2)) for _ in range(model.config.num_hidden_layers)]


def with_prefix(model: DebertaClassifier, tokens: Tensor, mask: Tensor, pairs, readable: int = 1) -> Tensor:
    """The logits with a prefix, all of which may be read, or none of it."""
    before = torch.full((len(tokens), PREFIX), readable)
    return model(tokens, attention_mask=torch.cat([before, mask], 1), past_key_values=DynamicCache(pairs)).logits


def test_without_a_prefix_it_is_the_librarys_model(model, folder):
    torch.manual_seed(0)
    theirs = DebertaV2ForSequenceClassification.from_pretrained(folder, num_labels=2, dtype="float32").eval()
    theirs.load_state_dict(model.state_dict())
    tokens, mask = text()
    with torch.no_grad():
        assert torch.equal(model(tokens, attention_mask=mask).logits, theirs(tokens, attention_mask=mask).logits)


def test_a_prefix_that_may_not_be_read_changes_nothing(model):
    tokens, mask = text()
    with torch.no_grad():
        alone = model(tokens, attention_mask=mask).logits
        assert torch.equal(with_prefix(model, *text(), prefix(model), readable=0), alone)
        assert not torch.allclose(with_prefix(model, *text(), prefix(model)), alone, atol=1e-3)


def test_padding_changes_nothing_beside_a_prefix(model):
    tokens, mask = text()
    more = torch.zeros(2, 5, dtype=torch.long)
    with torch.no_grad():
        as_it_is = with_prefix(model, tokens, mask, prefix(model))
        padded = with_prefix(model, torch.cat([tokens, more], 1), torch.cat([mask, more], 1), prefix(model))
    assert torch.allclose(as_it_is, padded, atol=1e-5)


def test_attention_is_that_of_the_equations(model):
    """He et al. 2021, equation 4, word by word in float64; a learned key is compared with the query's content alone."""
    attention: PrefixSelfAttention = model.deberta.encoder.layer[0].attention.self
    double = PrefixSelfAttention(model.config).double().eval()
    double.load_state_dict(attention.state_dict())
    time, heads, size = 7, double.num_attention_heads, double.attention_head_size
    torch.manual_seed(2)
    states, places = torch.randn(1, time, heads * size).double(), torch.randn(16, heads * size).double()
    keys, values = (torch.randn(1, heads, PREFIX, size).double() for _ in range(2))
    double.prefix = keys, values, torch.ones(1, PREFIX, dtype=torch.bool)
    found, weights = double(states, torch.ones(1, 1, time, time), True, rel_embeddings=places)

    def part(projection, rows: Tensor, head: int) -> Tensor:
        return projection(rows)[:, head * size : (head + 1) * size]

    for head in range(heads):
        query, key, value = (part(each, states[0], head) for each in (double.query_proj, double.key_proj, double.value_proj))
        place_query, place_key = (part(each, places, head) for each in (double.query_proj, double.key_proj))
        for i in range(time):
            scores = []
            for j in range(time):
                distance = bucket(i - j)
                scores.append(query[i] @ key[j] + query[i] @ place_key[8 + distance] + key[j] @ place_query[8 + distance])
            scores += [query[i] @ keys[0, head, n] for n in range(PREFIX)]
            expected = (torch.stack(scores) / (3 * size) ** 0.5).softmax(0)
            assert torch.allclose(weights[0, head, i], expected, atol=1e-7)
            context = expected @ torch.cat([value, values[0, head]])
            assert torch.allclose(found[0, i, head * size : (head + 1) * size], context, atol=1e-7)


def bucket(distance: int) -> int:
    """The logarithmic bucket of a distance, for 8 buckets and 512 places (He et al. 2021, the authors' code)."""
    if abs(distance) <= 4:
        return distance
    steps = torch.tensor(abs(distance) / 4).log() / torch.tensor(511 / 4).log() * 3
    return int(steps.ceil() + 4) * (1 if distance > 0 else -1)


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_are_the_finite_differences(folder, recomputed):
    torch.manual_seed(0)
    model = DebertaClassifier.from_pretrained(folder, num_labels=2, dtype="float64").eval()
    if recomputed:  # the library recomputes in training alone, and there is no dropout to tell the two apart
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        assert recompute_activations(model.train())
    pairs = [tuple(each.double().requires_grad_() for each in pair) for pair in prefix(model)]

    def loss() -> Tensor:
        return (with_prefix(model, *text(), pairs) * torch.tensor([[1.0, -2.0], [0.5, 3.0]])).sum()

    loss().backward()
    for pair in pairs:
        for weights in pair:
            for place in ((0, 0, 0, 0), (1, 1, PREFIX - 1, 5)):
                with torch.no_grad():
                    weights[place] += 1e-5
                    above = loss()
                    weights[place] -= 2e-5
                    below = loss()
                    weights[place] += 1e-5
                assert torch.isclose(weights.grad[place], (above - below) / 2e-5, rtol=1e-5, atol=1e-8)


def test_pefts_own_prefix_tuning_takes_it(folder):
    """Its virtual tokens reach every layer, and nothing but them, the pooler and the head learns."""
    model = get_peft_model(
        DebertaClassifier.from_pretrained(folder, num_labels=2, dtype="float32"),
        PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=PREFIX, modules_to_save=["pooler", "classifier"]),
    )
    tokens, mask = text()
    model(input_ids=tokens, attention_mask=mask, labels=torch.tensor([0, 1])).loss.backward()
    learning = {name for name, weights in model.named_parameters() if weights.grad is not None and weights.grad.any()}
    assert learning and all("prompt_encoder" in name or "modules_to_save" in name for name in learning)
    table = model.prompt_encoder["default"].embedding.weight.grad.view(PREFIX, model.config.num_hidden_layers, 2, -1)
    assert (table != 0).any(-1).all()  # of each virtual token, in each layer, keys and values

"""What holds for every model over word vectors, and each model against a reference that was written in another way."""

import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import attention_lstm
import capsule_lstm
import cnn
import cnn_lstm
import gru
import lm_lstm
import lstm
import transformer
from popcorn.data.word_tokenizer import PAD
from popcorn.errors import UserError
from popcorn.utils import hardware

LENGTHS = torch.tensor([7, 1, 4])
MODELS = {
    "lstm": (lstm.LSTM, lstm.Config(hidden=6)),
    "gru": (gru.GRU, gru.Config(hidden=6)),
    "cnn": (cnn.CNN, cnn.Config(num_filters=6)),
    "cnn_lstm": (cnn_lstm.CNNLSTM, cnn_lstm.Config(num_filters=6, hidden=6)),
    "attention_lstm": (attention_lstm.AttentionLSTM, attention_lstm.Config(hidden=6, attention_size=4)),
    "capsule_lstm": (capsule_lstm.CapsuleLSTM, capsule_lstm.Config(hidden=6, num_primary=2, primary_dim=8, class_dim=4)),
    "lm_lstm": (lm_lstm.LMLSTM, lm_lstm.Config(hidden=6)),
    "transformer": (transformer.Transformer, transformer.Config(d_model=8, num_heads=2, d_ff=12)),
}


def tokens() -> torch.Tensor:
    """Three reviews of the lengths above, padded to 7."""
    words = torch.randint(2, 30, (3, 7), generator=torch.Generator().manual_seed(1))
    return words.masked_fill(torch.arange(7) >= LENGTHS.unsqueeze(1), PAD)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    build, config = MODELS[name]
    model = build(config, torch.randn(30, 5)).eval()
    with torch.no_grad():  # logits as far apart as a trained model's
        last = model.predict if name == "capsule_lstm" else model.classifier.weight
        last *= 20
    return model


# oneDNN has an LSTM in bf16 only where the processor has instructions for it, and no run takes it elsewhere
PRECISIONS = [(torch.float32, 1e-5)] + ([(torch.bfloat16, 2e-2)] if hardware.mixed_precision("auto") == "bf16" else [])


@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_padding_and_company_change_nothing(name, precision, tolerance):
    """Rounding may differ with the shape of a product; what stands behind a review, and beside it, may not show."""
    model = made(name)
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        together = model(tokens(), LENGTHS)
        padded = model(pad(tokens(), (0, 13), value=PAD), LENGTHS)
        noise = model(torch.where(tokens() == PAD, 9, tokens()), LENGTHS)  # even words in place of the padding
        alone = torch.cat([model(tokens()[row : row + 1, :length], LENGTHS[row : row + 1]) for row, length in enumerate(LENGTHS)])
    for other in (padded, noise, alone):
        assert torch.allclose(together.float(), other.float(), rtol=tolerance, atol=tolerance)
    assert together.std() > 5 * tolerance  # a model that says the same of all reviews would pass the above


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter_and_no_padding(name):
    model = made(name).train()
    model(tokens(), LENGTHS).sum().backward()
    for parameter, weights in model.named_parameters():
        # a softmax does not change when all scores do: a bias of the keys alone has no gradient
        assert weights.grad is not None and weights.grad.abs().sum() > 0, parameter
    assert not model.embedding.weight.grad[PAD].any()


def test_lstm_states_are_those_of_torchs_packed_bidirectional_lstm():
    """The reference never sees padding: it is given packed sequences."""
    model, reference = made("lstm"), nn.LSTM(5, 6, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, weights in model.lstm.forward_rnn.named_parameters():
            getattr(reference, name).copy_(weights)
        for name, weights in model.lstm.backward_rnn.named_parameters():
            getattr(reference, f"{name}_reverse").copy_(weights)
        packed = pack_padded_sequence(model.embedding(tokens()), LENGTHS, batch_first=True, enforce_sorted=False)
        states = model.projection(pad_packed_sequence(reference(packed)[0], batch_first=True)[0])
        pooled = [
            torch.cat([row[:length].max(0).values, row[:length].mean(0)]) for row, length in zip(states, LENGTHS, strict=True)
        ]
        logits = model.classifier(torch.stack(pooled)).squeeze(-1)
        assert torch.allclose(model(tokens(), LENGTHS), logits, atol=1e-5)


def test_a_model_that_reads_padding_is_found_out():
    """The check of padding, on the common mistake: a bidirectional LSTM over right-padded reviews."""
    model, wrong = made("lstm"), nn.LSTM(5, 6, batch_first=True, bidirectional=True)
    with torch.no_grad():
        short = wrong(model.embedding(tokens()))[0][2, 0]
        padded = wrong(model.embedding(pad(tokens(), (0, 13), value=PAD)))[0][2, 0]
    assert not torch.allclose(short, padded, atol=1e-3)


def feature_map(convolution: nn.Conv1d, words: torch.Tensor, length: int) -> torch.Tensor:
    """Kim 2014, equations 2 and 3: words (time, width) -> (length, filters), window by window."""
    windows = [words[i : i + convolution.kernel_size[0]].T for i in range(length)]  # (width, h)
    return torch.stack([torch.relu((convolution.weight * window).sum((1, 2)) + convolution.bias) for window in windows])


def test_cnn_is_the_papers_equations():
    """Kim 2014, equations 2 to 4, window by window, in both layers, and the gradients; beyond the review are zeros."""
    model = made("cnn").double()
    logits = []
    for row, length in enumerate(LENGTHS.tolist()):
        words = model.embedding(tokens()[row, :length])
        phrases = feature_map(model.phrase_convolution, pad(words, (0, 0, 1, 1)), length)
        answers = []
        for convolution in model.convolutions:
            filled = pad(phrases, (0, 0, 0, convolution.kernel_size[0] - 1))
            answers.append(feature_map(convolution, filled, length).max(0).values)
        logits.append(model.classifier(torch.cat(answers)).squeeze())
    found, expected = model(tokens(), LENGTHS), torch.stack(logits)
    assert torch.allclose(found, expected)
    scale = torch.tensor([1.0, -2.0, 3.0])  # not all reviews pull the same way
    gradients = [torch.autograd.grad((logit * scale).sum(), list(model.parameters())) for logit in (found, expected)]
    for its, reference in zip(*gradients, strict=True):
        assert torch.allclose(its, reference)


def test_gru_is_the_recurrence_written_out():
    """Cho et al. 2014, equations 5 to 8, with the reset gate behind the product as in torch.nn.GRU."""
    model = made("gru").double()
    for row, length in enumerate(LENGTHS.tolist()):
        pooled = []
        rnns = model.gru.forward_rnn, model.gru.backward_rnn
        for rnn, order in zip(rnns, (range(length), reversed(range(length))), strict=True):
            state, states = torch.zeros(6).double(), []
            for t in order:
                x = rnn.weight_ih_l0 @ model.embedding(tokens()[row, t]) + rnn.bias_ih_l0
                h = rnn.weight_hh_l0 @ state + rnn.bias_hh_l0
                reset, update = torch.sigmoid(x[:6] + h[:6]), torch.sigmoid(x[6:12] + h[6:12])
                state = update * state + (1 - update) * torch.tanh(x[12:] + reset * h[12:])
                states.append(state)
            pooled += [state, torch.stack(states).max(0).values]
        assert torch.allclose(model(tokens(), LENGTHS)[row], model.classifier(torch.cat(pooled)).squeeze())


def test_attention_weights_are_a_distribution_over_the_words():
    model = made("attention_lstm").double()
    model(tokens(), LENGTHS)
    weights = model.attention.weights
    assert torch.allclose(weights.sum(1), torch.ones(3)) and not weights[tokens() == PAD].any()
    states = torch.randn(3, 7, 12).double()
    attended = model.attention(states, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):  # Yang et al. 2016, equations 5 to 7
        u = [torch.tanh(model.attention.projection(state)) for state in states[row, :length]]
        e = torch.stack([torch.exp(each @ model.attention.context.weight[0]) for each in u])
        plain = sum(a * state for a, state in zip(e / e.sum(), states[row], strict=False))
        assert torch.allclose(attended[row], plain)


def test_a_softmax_over_padding_is_found_out():
    """The mistake that the mask prevents: with it left out, padding takes part of the weight."""
    model = made("attention_lstm")
    scores = model.attention.context(torch.tanh(model.attention.projection(torch.randn(3, 7, 12)))).squeeze(-1)
    assert scores.softmax(1)[tokens() == PAD].sum() > 0.1


def test_cnn_lstm_convolves_over_time_and_then_reads_it():
    """Zhou et al. 2015: phrase by phrase, then torch's own cell step by step."""
    model = made("cnn_lstm")
    cell = nn.LSTMCell(6, 6)
    cell.load_state_dict({name.removesuffix("_l0"): weights for name, weights in model.lstm.state_dict().items()})
    for row, length in enumerate(LENGTHS.tolist()):
        words = torch.cat([torch.zeros(2, 5), model.embedding(tokens()[row, :length])])
        state, states = (torch.zeros(6), torch.zeros(6)), []
        for t in range(length):
            window = words[t : t + 3].T
            phrase = torch.relu((model.convolution.weight * window).sum((1, 2)) + model.convolution.bias)
            state = cell(phrase, state)
            states.append(state[0])
        logit = model.classifier(torch.cat([state[0], torch.stack(states).max(0).values])).squeeze()
        assert torch.allclose(model(tokens(), LENGTHS)[row], logit, atol=1e-5)


def test_a_transformer_block_is_torchs():
    model = made("transformer")
    block = model.blocks[0]
    reference = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    attention = reference.self_attn
    pairs = {
        attention.in_proj_weight: block.attention.query_key_value.weight,
        attention.in_proj_bias: block.attention.query_key_value.bias,
        attention.out_proj.weight: block.attention.output.weight, attention.out_proj.bias: block.attention.output.bias,
        reference.linear1.weight: block.feed_forward[0].weight, reference.linear1.bias: block.feed_forward[0].bias,
        reference.linear2.weight: block.feed_forward[2].weight, reference.linear2.bias: block.feed_forward[2].bias,
    }  # fmt: skip
    words, mask = torch.randn(3, 7, 8), torch.arange(7) < LENGTHS.unsqueeze(1)
    bias = transformer.alibi_bias(7, 2, words.device).masked_fill(~mask[:, None, None], float("-inf"))
    with torch.no_grad():
        for theirs, ours in pairs.items():
            theirs.copy_(ours)
        expected = reference(words, src_mask=bias.flatten(0, 1))  # (batch * heads, time, time)
        assert torch.allclose(block(words, bias)[mask], expected[mask], atol=1e-5)


def test_the_transformer_reads_the_maximum_of_every_four_phrases():
    """Phrase by phrase; the blocks then read as many vectors as there are groups of four."""
    model = made("transformer")
    for row, length in enumerate(LENGTHS.tolist()):
        words = torch.cat([torch.zeros(1, 5), model.embedding(tokens()[row, :length]), torch.zeros(1, 5)])
        windows = [words[t : t + 3].T for t in range(length)]
        kernel, bias = model.convolution.weight, model.convolution.bias
        phrases = [torch.relu((kernel * window).sum((1, 2)) + bias) for window in windows]
        states = torch.stack([torch.stack(phrases[t : t + 4]).amax(0) for t in range(0, length, 4)]).unsqueeze(0)
        for block in model.blocks:
            states = block(states, transformer.alibi_bias(states.shape[1], 2, states.device))
        logit = model.classifier(torch.cat([states[0].amax(0), states[0].mean(0)])).squeeze()
        assert torch.allclose(model(tokens(), LENGTHS)[row], logit, atol=1e-4)


def test_distances_count_against_far_words_in_each_heads_measure():
    table = transformer.alibi_bias(5, 3, torch.device("cpu"))
    for head in range(3):
        for here in range(5):
            for there in range(5):
                assert table[head, here, there] == -abs(here - there) / 4**head


def test_squash_shortens_and_keeps_the_direction():
    vectors = torch.randn(5, 4).double() * torch.tensor([0.01, 0.5, 1, 5, 100]).unsqueeze(1)
    length = vectors.norm(dim=-1)
    assert torch.allclose(capsule_lstm.squash(vectors).norm(dim=-1), length**2 / (1 + length**2), atol=1e-4)
    assert torch.allclose(nn.functional.cosine_similarity(capsule_lstm.squash(vectors), vectors), torch.ones(5).double())


def test_routing_is_the_papers_procedure():
    """Sabour et al. 2017, procedure 1, capsule by capsule."""
    predictions = torch.randn(3, 7, 2, 4)
    for row in range(3):
        u = predictions[row]
        b = [[0.0, 0.0] for _ in u]
        for _ in range(3):
            c = [torch.tensor(logits).softmax(0) for logits in b]
            s = [sum(c[i][j] * u[i][j] for i in range(len(u))) for j in range(2)]
            v = [vector * vector.norm() / (1 + vector.norm() ** 2) for vector in s]
            b = [[b[i][j] + float(u[i][j] @ v[j]) for j in range(2)] for i in range(len(u))]
        assert torch.allclose(capsule_lstm.route(predictions, 3)[row], torch.stack(v), atol=1e-5)


def test_agreement_wins_the_routing():
    """All capsules predict the same for the second class and contradict each other for the first."""
    predictions = torch.zeros(1, 6, 2, 4)
    predictions[..., 1, 0] = 1.0
    predictions[0, ::2, 0, 0], predictions[0, 1::2, 0, 0] = 1.0, -1.0
    once, thrice = (capsule_lstm.route(predictions, rounds).norm(dim=-1)[0] for rounds in (1, 3))
    assert once[0] < 1e-3 < once[1] < thrice[1]


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        (capsule_lstm, {"routing_iterations": 0}, "--routing-iterations is 0: give a whole number of at least 1"),
        (attention_lstm, {"attention_size": 0}, "--attention-size is 0"),
        (cnn, {"num_filters": 0}, "--num-filters is 0"),
        (cnn, {"kernel_sizes": (3, 0)}, r"--kernel-sizes is \(3, 0\)"),
        (cnn, {"kernel_sizes": ()}, r"--kernel-sizes is \(\)"),
        (transformer, {"num_layers": 0}, "--num-layers is 0"),
        (transformer, {"phrase_size": 0}, "--phrase-size is 0"),
        (transformer, {"pool_size": 0}, "--pool-size is 0"),
        (transformer, {"d_model": 10, "num_heads": 4}, "--d-model is 10, which 4 --num-heads do not divide"),
        (lstm, {"seed": -1}, "--seed is -1: give a whole number from 0"),
    ],
)
def test_sizes_that_make_no_model_are_refused(script, options, said):
    with pytest.raises(UserError, match=said):
        script.Config(**options)

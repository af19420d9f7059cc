"""A response attaches to any module: exact where it is a change of weights, absent where it is not
in force, and refused in one sentence where hooks cannot reach.

Run: pytest tests/test_stn_modules.py
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import rnn
from torch.utils.checkpoint import checkpoint

from hpo.bilevel.gates.response import Response
from hpo.bilevel.gates.sites import Layout, Site, another_first, find_sites
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch

ROWS, COLUMNS = 6, 3


def responding(model: nn.Module, inputs: Tensor, dim: int = 0, columns: int = COLUMNS) -> Response:
    """A response that has learned something, not attached; `dim` of the inputs counts examples."""
    # What exchanges the first example works on dimension 0.
    rows = inputs.movedim(dim, 0)
    altered = another_first(Batch(rows, torch.zeros(len(rows)))).inputs.movedim(0, dim)
    mode = model.training
    model.eval()
    sites = find_sites(model, lambda: model(inputs), lambda: model(altered), len(rows))
    model.train(mode)
    response = Response(sites, columns, next(model.parameters()), 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for site, gate in zip(response.sites, response.gates, strict=True):
            for parameter in (gate.gains, gate.moves):
                drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(0.3 * drawn)
            if not site.shifts:
                gate.moves[:columns] = 0.0  # nothing is ever learned there
    return response


@contextmanager
def attached(response: Response, model: nn.Module | None = None) -> Iterator[Response]:
    undo = response.attach(model)
    try:
        yield response
    finally:
        for one in reversed(undo):
            one()


def deltas(rows: int = ROWS, columns: int = COLUMNS, dtype: Any = torch.float64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3), dtype=dtype)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return make().double()


def names(response: Response) -> list[str]:
    return [site.name for site in response.sites]


# -- exactness ------------------------------------------------------------------------------------


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(6))


class Attending(nn.Module):
    """Multi-head attention of a sequence to itself, the batch in the dimension it is built for."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class Own(nn.Module):
    """Attention as people write it themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(input=x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


EXACT: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(5, 4), drawn(ROWS, 5)),
    "linear without bias": (lambda: nn.Linear(5, 4, bias=False), drawn(ROWS, 5)),
    "linear in sequences": (lambda: nn.Linear(5, 4), drawn(ROWS, 3, 5)),
    "square linear": (lambda: nn.Linear(ROWS, ROWS), drawn(ROWS, ROWS, ROWS)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), drawn(ROWS, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), drawn(ROWS, 3, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, bias=False), drawn(ROWS, 2, 3, 3, 3)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), drawn(ROWS, 4, 5, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3), drawn(ROWS, 4, 5)),
    "transposed 2d, groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), drawn(ROWS, 4, 3, 3)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 2, 2), drawn(ROWS, 2, 3, 3, 3)),
    "square transposed": (lambda: nn.ConvTranspose1d(4, 4, 2, groups=2), drawn(ROWS, 4, 5)),
    "embedding": (lambda: nn.Embedding(7, 4), tokens(ROWS, 3)),
    "square embedding": (lambda: nn.Embedding(7, 7), tokens(ROWS, 3)),
    "padded embedding": (lambda: nn.Embedding(7, 4, padding_idx=-6), tokens(ROWS, 5)),
    "layer norm": (lambda: nn.LayerNorm(5), drawn(ROWS, 3, 5)),
    "layer norm of images": (lambda: nn.LayerNorm((2, 3, 4)), drawn(ROWS, 2, 3, 4)),
    "rms norm": (lambda: nn.RMSNorm(5), drawn(ROWS, 3, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 4), drawn(ROWS, 4, 3, 3)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), drawn(ROWS, 4, 3, 3)),
    "batch norm": (lambda: nn.BatchNorm2d(4), drawn(ROWS, 4, 3, 3)),
    "attention": (lambda: Attending(True), drawn(ROWS, 4, 8)),
    "own attention": (Own, drawn(ROWS, ROWS, 8)),
    "stacked": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(36, 3)),
        drawn(ROWS, 1, 5, 5),
    ),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
        drawn(ROWS, 4, 8),
    ),
    "transformer layer, norm first": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True),
        drawn(ROWS, 4, 8),
    ),
}


@pytest.mark.parametrize("kind", EXACT)
def test_hooks_do_what_weights_of_its_own_would_do_for_each_example(kind: str) -> None:
    model, inputs = built(EXACT[kind][0]).eval(), EXACT[kind][1]
    parameters = dict(model.named_parameters())
    response, delta = responding(model, inputs), deltas()
    with attached(response), torch.no_grad():
        response.delta = delta
        answered = model(inputs)
        response.delta = None
        plain = model(inputs)
        expected = []
        for i in range(ROWS):
            weights = response.effective(parameters, delta[i])
            expected.append(functional_call(model, weights, (inputs[i : i + 1],)))
    assert not torch.allclose(answered, plain, atol=1e-3)
    torch.testing.assert_close(answered, torch.cat(expected), rtol=0, atol=1e-12)


def test_a_linear_layer_answers_by_its_formula() -> None:
    model, x = built(lambda: nn.Linear(5, 4)), drawn(ROWS, 5)
    response, delta = responding(model, x), deltas()
    gate = response.gates[0]
    gains, (shifts, out), read = gate.gains, gate.moves.chunk(2), gate.read
    assert isinstance(model, nn.Linear) and read is not None
    with attached(response), torch.no_grad():
        response.delta = delta
        answered = model(x)
        for i, d in enumerate(delta):
            factor = 1 + (d[:, None] * gains).sum(0)
            rank_one = sum(d[k] * torch.outer(out[k], read[k]) for k in range(COLUMNS))
            weight = model.weight * factor[:, None] + rank_one
            expected = weight @ x[i] + model.bias * factor + d @ shifts
            torch.testing.assert_close(answered[i], expected, rtol=0, atol=1e-12)


def test_single_precision_agrees_to_a_millionth() -> None:
    model, x = built(EXACT["stacked"][0]).float().eval(), drawn(ROWS, 1, 5, 5).float()
    response, delta = responding(model, x), deltas(dtype=torch.float32)
    with attached(response), torch.no_grad():
        response.delta = delta
        answered = model(x)
        response.delta = None
        parameters = dict(model.named_parameters())
        for i in range(ROWS):
            weights = response.effective(parameters, delta[i])
            expected = functional_call(model, weights, (x[i : i + 1],))
            torch.testing.assert_close(answered[i : i + 1], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear without bias", "conv3d", "rms norm"])
def test_a_layer_without_bias_learns_no_shift(kind: str) -> None:
    model, inputs = built(EXACT[kind][0]), EXACT[kind][1]
    response = responding(model, inputs)
    with attached(response):
        response.delta = deltas()
        model(inputs).square().sum().backward()
    gate = response.gates[0]
    assert gate.moves.grad is not None and gate.gains.grad is not None
    assert not gate.moves.grad[:COLUMNS].any() and gate.gains.grad.all()
    assert gate.moves.grad[COLUMNS:].all()


# -- recurrent layers -----------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A recurrent layer that puts out all its outputs and the last states of its upper layer."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(5, 4, num_layers=2, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output, state = self.layer(x)
        return output, state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_recurrent_layers_answer_in_output_and_last_state(
    kind: type[nn.RNNBase], batch_first: bool, bidirectional: bool
) -> None:
    options = {"batch_first": batch_first, "bidirectional": bidirectional}
    model = built(lambda: Recurrent(kind, **options))
    x = drawn(ROWS, ROWS, 5)  # as many places as examples: the shape tells nothing
    response, delta = responding(model, x, 0 if batch_first else 1), deltas()
    gate = response.gates[0]
    plain, state = model(x)
    with attached(response):
        response.delta = delta
        answered, answered_state = model(x)
    dim = 0 if batch_first else 1
    factors, shifts = 1 + delta @ gate.gains, delta @ gate.moves
    expected = plain * factors.unsqueeze(1 - dim) + shifts.unsqueeze(1 - dim)
    torch.testing.assert_close(answered, expected, rtol=0, atol=1e-12)
    last = answered.select(1 - dim, -1)[:, :4]  # forwards, the last place is the last state
    upper = answered_state[-2 if bidirectional else -1]
    torch.testing.assert_close(upper, last, rtol=0, atol=1e-12)
    assert torch.equal(answered_state[:1], state[:1])  # the lower layer is inside
    parameters = dict(model.named_parameters())
    assert response.effective(parameters, delta[0]) == parameters


def test_packed_sequences_answer_example_by_example() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(5, 4, batch_first=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            lengths = torch.tensor([2, 5, 1, 4, 5, 3])
            packed = rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
            output, (state, _) = self.layer(packed)
            return rnn.pad_packed_sequence(output, True)[0], state[-1]

    model, x = built(Reader), drawn(ROWS, 5, 5)
    response, delta = responding(model, x), deltas()
    gate = response.gates[0]
    plain, state = model(x)
    with attached(response):
        response.delta = delta
        answered, answered_state = model(x)
    factors, shifts = 1 + delta @ gate.gains, delta @ gate.moves
    expected = plain * factors[:, None] + shifts[:, None] * (plain != 0)
    torch.testing.assert_close(answered, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(answered_state, state * factors + shifts, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_answer_in_every_call(kind: type[nn.Module]) -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(5, 4)
            self.read = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.read(state[0] if isinstance(state, tuple) else state)

    model, x = built(Unrolled), drawn(ROWS, 3, 5)
    response, delta = responding(model, x), deltas()
    assert names(response) == ["cell", "read"]
    with attached(response), torch.no_grad():
        response.delta = delta
        together = model(x)
        for i in range(ROWS):
            response.delta = delta[i : i + 1]
            alone = model(x[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


# -- layouts, shared modules ----------------------------------------------------------------------


class Words(nn.Module):
    """A word model with the batch second: flat rows in its decoder, which shares the embedding."""

    def __init__(self, flat: bool = True) -> None:
        super().__init__()
        self.encoder, self.place = nn.Embedding(7, 4), nn.Embedding(ROWS, 4)
        self.layer = nn.GRU(4, 4)
        self.decoder = nn.Linear(4, 7)
        self.decoder.weight = self.encoder.weight
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        places = self.place(torch.arange(len(x)))[:, None]
        output, _ = self.layer(self.encoder(x) + places)
        if self.flat:
            return self.decoder(output.reshape(-1, 4)).view(*x.shape, 7)
        return self.decoder(output)


@pytest.mark.parametrize("flat", [True, False])
def test_batch_second_flat_rows_tied_weights_and_places(flat: bool) -> None:
    model, x = built(lambda: Words(flat)), tokens(ROWS, ROWS)
    response, delta = responding(model, x, dim=1), deltas()
    assert names(response) == ["encoder", "layer", "decoder"]  # a place is no part of an example
    layouts = [site.layouts for site in response.sites]
    decoder = Layout(0, interleaved=True) if flat else Layout(1)
    assert layouts == [(Layout(1),), (Layout(1),), (decoder,)]
    with attached(response), torch.no_grad():
        response.delta = delta
        together = model(x)
        for i in range(ROWS):
            response.delta = delta[i : i + 1]
            alone = model(x[:, i : i + 1])
            torch.testing.assert_close(together[:, i : i + 1], alone, rtol=0, atol=1e-12)
    parameters = dict(model.named_parameters())
    found = response.effective(parameters, delta[0])
    assert found["encoder.weight"] is parameters["encoder.weight"]  # it has two answers
    assert not torch.equal(found["decoder.bias"], parameters["decoder.bias"])


def test_rows_by_example_and_frames_laid_out_flat() -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.read = nn.Conv2d(1, 2, 3), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen = self.conv(x.flatten(0, 1)).mean((2, 3))
            return self.read(seen).view(len(x), -1, 3).sum(1)

    model, x = built(Frames), drawn(ROWS, 2, 1, 4, 4)
    response, delta = responding(model, x), deltas()
    with attached(response), torch.no_grad():
        response.delta = delta
        together = model(x)
        for i in range(ROWS):
            response.delta = delta[i : i + 1]
            alone = model(x[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_a_module_used_twice_answers_twice_with_one_gate() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5)
            self.again = self.layer

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.layer(x).tanh())

    model, x = built(Twice), drawn(ROWS, 5)
    twin, parameters = copy.deepcopy(model), dict(model.named_parameters())
    response, delta = responding(model, x), deltas()
    assert names(response) == ["layer"]
    with attached(response), torch.no_grad():
        response.delta = delta
        answered = model(x)
        for i in range(ROWS):
            weights = response.effective(parameters, delta[i])
            expected = functional_call(copy.deepcopy(twin), weights, (x[i : i + 1],))
            torch.testing.assert_close(answered[i : i + 1], expected, rtol=0, atol=1e-12)


def test_parts_that_see_some_rows_only_do_not_respond() -> None:
    class Routed(nn.Module):
        """Two experts, each for the examples that are its own, on sequences cut to their length."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 5, padding_idx=0)
            self.experts = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
            self.read = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            length = int((x > 0).sum(1).max())
            inner = self.embed(x[:, :length])
            mean = inner.mean(1)
            picked = x[:, 0] % 2
            out = torch.zeros_like(mean)
            for place, expert in enumerate(self.experts):
                out[picked == place] = expert(mean[picked == place])
            return self.read(out)

    x = tokens(ROWS, 8).clamp(min=1)
    x[1:, 5:] = 0  # without the first example all are shorter
    x[0, 0], x[1:, 0] = 1, 2
    response = responding(built(Routed), x)
    assert names(response) == ["embed", "read"]
    assert response.sites[0].layouts == (Layout(0),)


def test_with_one_example_the_shapes_must_say() -> None:
    model = built(lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)))
    response = responding(model, drawn(1, 5))
    assert names(response) == ["0", "1"]
    with attached(response):
        response.delta = deltas()
        assert model(drawn(ROWS, 5)).shape == (ROWS, 3)


def test_a_shape_that_fits_no_batch_is_an_error() -> None:
    response = Response([Site("layer", nn.Linear(5, 4), 4, -1, 5)], 1, torch.zeros(()), 0)
    model = response.sites[0].module
    with attached(response), pytest.raises(HpoError, match=r"shape \(5, 4\) for a batch of 3"):
        response.delta = torch.ones(3, 1)
        model(torch.zeros(5, 5))


def test_frozen_layers_do_not_respond() -> None:
    model = built(lambda: nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2)))
    model[0].requires_grad_(False)  # type: ignore[index]
    assert names(responding(model, drawn(ROWS, 5))) == ["1"]


# -- norms ----------------------------------------------------------------------------------------


def test_a_norm_responds_in_place_of_the_layer_before_it() -> None:
    parts = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3)]
    parts += [nn.Flatten(), nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 2)]
    model = built(lambda: nn.Sequential(*parts))
    assert names(responding(model, drawn(ROWS, 1, 5, 5))) == ["1", "3", "6", "7"]


def test_statistics_of_batch_norm_are_those_of_plain_training() -> None:
    model = built(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU()))
    twin, x = copy.deepcopy(model), drawn(ROWS, 1, 5, 5)
    response = responding(model, x)
    norm, plain = model[1], twin[1]  # type: ignore[index]
    with attached(response):
        response.delta = deltas()
        model(x)
        twin(x)
        assert int(norm.num_batches_tracked) == 1
        assert torch.equal(norm.running_mean, plain.running_mean)
        assert torch.equal(norm.running_var, plain.running_var)


# -- at rest, gradients ---------------------------------------------------------------------------

WHOLE = [
    "stacked",
    "transformer layer",
    "batch norm",
    "padded embedding",
    "transposed 2d, groups",
]


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("training", [True, False])
def test_at_rest_the_model_is_itself_bit_for_bit(kind: str, training: bool) -> None:
    model, inputs = built(EXACT[kind][0]).train(training), EXACT[kind][1]
    response = responding(model, inputs)
    expected = model(inputs)
    with attached(response):
        assert torch.equal(model(inputs), expected)
        response.delta = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
        assert torch.equal(model(inputs), expected)
    assert torch.equal(model(inputs), expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


GRADED = ["linear in sequences", "conv2d", "layer norm of images", "embedding", "transposed 1d"]


@pytest.mark.parametrize("kind", GRADED)
@pytest.mark.filterwarnings("ignore:Input #:UserWarning")
def test_gradients_agree_with_finite_differences(kind: str) -> None:
    model, inputs = built(EXACT[kind][0]), EXACT[kind][1]
    response = responding(model, inputs)
    weights, gates = list(model.parameters()), response.parameters()
    fixed = deltas()

    def training(*_: Tensor) -> Tensor:
        response.delta = fixed
        return model(inputs)

    def tuning(delta: Tensor) -> Tensor:
        response.delta = delta
        return model(inputs)

    with attached(response):
        assert torch.autograd.gradcheck(training, (*weights, *gates))
        assert torch.autograd.gradcheck(tuning, (fixed.clone().requires_grad_(),))
        (tuning(fixed.clone().requires_grad_()) ** 2).sum().backward()
    assert all(gate.grad is None for gate in gates)  # a step of the knobs leaves them alone


# -- checkpointing, compiling, precision ----------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 5), nn.LayerNorm(5))
        self.head = nn.Linear(5, 2)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.head(self.block(x))
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    x, grads = drawn(ROWS, 5).requires_grad_(), []
    for mode in (None, reentrant):
        model = built(lambda mode=mode: Checkpointed(mode))
        response = responding(model, x)
        with attached(response):
            response.delta = deltas()
            model(x).square().sum().backward()
        found = [*model.parameters(), *response.parameters()]
        grads.append([p.grad for p in found])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again, rtol=0, atol=1e-12)


def test_steps_of_the_knobs_go_through_checkpoints_or_are_refused() -> None:
    x, found = drawn(ROWS, 5).requires_grad_(), []
    for mode in (None, False, True):
        model = built(lambda mode=mode: Checkpointed(mode)).eval()
        response = responding(model, x)
        delta = response.delta = deltas().requires_grad_()
        with attached(response):
            if mode:
                with pytest.raises(HpoError, match="without gradients") as caught:
                    model(x)
                assert "use_reentrant=False" in caught.value.hint
            else:
                found.append(torch.autograd.grad(model(x).square().sum(), delta)[0])
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


@pytest.fixture
def compiling() -> Iterator[None]:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.read = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.norm(self.conv(x)).relu().flatten(1))


@pytest.mark.parametrize(
    ("backend", "called_before"),
    [
        ("eager", True),
        pytest.param("eager", False, marks=pytest.mark.slow),
        pytest.param("aot_eager", True, marks=pytest.mark.slow),
        pytest.param("inductor", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("compiling")
def test_compiled_models_respond(backend: str, called_before: bool) -> None:
    plain, x = built(Net), drawn(ROWS, 1, 5, 5)
    model = torch.compile(copy.deepcopy(plain), backend=backend)
    if called_before:
        model(x)
        plain(x)
    grads = []
    for one in (plain, model):
        response = responding(one, x)
        at_rest = one(x)
        with attached(response):
            assert torch.equal(one(x), at_rest)
            response.delta = deltas()
            answered = one(x)
            answered.square().sum().backward()
            grads.append([answered, *(p.grad for p in [*one.parameters(), *response.parameters()])])
            response.delta = deltas().flip(0).requires_grad_()
            slope = torch.autograd.grad(one(x).square().sum(), response.delta)[0]
            grads[-1].append(slope)
            response.delta = None
            assert torch.allclose(one(x), at_rest)
        assert torch.allclose(one(x), at_rest)
        assert not torch.allclose(answered, at_rest, atol=1e-3)
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("compiling")
def test_values_of_delta_compile_nothing_anew() -> None:
    model, x = built(Net), drawn(ROWS, 1, 5, 5)
    model.compile(backend="eager", fullgraph=True)
    response = responding(model, x)
    with attached(response):
        for step in range(2):
            response.delta = deltas() * step
            model(x)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for step in range(2, 6):
                response.delta = deltas() * step
                model(x)


def test_autocast_and_half_precision_models() -> None:
    model, x = built(EXACT["stacked"][0]).float(), drawn(ROWS, 1, 5, 5).float()
    response, delta = responding(model, x), deltas(dtype=torch.float32)
    with attached(response):
        response.delta = delta
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(x)
        assert rough.dtype == torch.bfloat16
        rough.float().square().sum().backward()
        assert all(
            p.grad is not None and p.grad.dtype == torch.float32
            for p in response.gates[0].parameters()
        )
        torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)
        delta = response.delta = delta.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().sum()
        assert torch.autograd.grad(loss, delta)[0].isfinite().all()
    model.bfloat16()
    half = responding(model, x.bfloat16())
    assert all(p.dtype == torch.float32 for p in half.parameters())
    with attached(half):
        half.delta = deltas(dtype=torch.float32)
        answered = model(x.bfloat16())
        assert answered.dtype == torch.bfloat16
        answered.float().square().sum().backward()
        torch.testing.assert_close(answered.float(), exact, rtol=0.15, atol=0.15)


def test_channels_last_stays_channels_last() -> None:
    model, x = built(lambda: nn.Conv2d(3, 4, 3)), drawn(ROWS, 3, 5, 5)
    response = responding(model, x)
    with attached(response):
        response.delta = deltas()
        expected = model(x)
        model.to(memory_format=torch.channels_last)
        found = model(x.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# -- attention in evaluation, models that are refused ---------------------------------------------


def test_evaluation_of_an_encoder_with_padding_survives_hooks() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)

    class Encoding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x: Tensor) -> Tensor:
            padding = torch.zeros(x.shape[:2], dtype=torch.bool)
            padding[:, -1] = True
            return self.encoder(x, src_key_padding_mask=padding)[:, :-1]

    model, x = built(Encoding).eval(), drawn(ROWS, 4, 8)
    response = responding(model, x)
    assert "encoder.layers.1.self_attn" in names(response)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are announced as a prototype
        with torch.no_grad():
            plain = model(x)
            with attached(response):
                torch.testing.assert_close(model(x), plain, rtol=0, atol=1e-10)
            assert torch.backends.mha.get_fastpath_enabled()


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed = torch.distributed
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore")
def test_models_spread_over_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(5, 4), torch.zeros(ROWS, 5)
    spread = nn.parallel.DistributedDataParallel(nn.Linear(5, 4))
    with pytest.raises(HpoError, match="the model is a DistributedDataParallel") as caught:
        find_sites(spread, lambda: spread(x))
    assert "tune in one process" in caught.value.hint
    find_sites(model, lambda: model(x))  # one process alone may
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(HpoError, match="one of 2 processes"):
        find_sites(model, lambda: model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: nn.DataParallel(nn.Linear(5, 4)), "is a DataParallel"),
        (lambda: torch.jit.script(nn.Linear(5, 4)), "is scripted"),
        (lambda: nn.LazyLinear(4), "without its parameters"),
    ],
)
def test_models_that_hooks_cannot_answer_for_are_refused(
    make: Callable[[], nn.Module], found: str
) -> None:
    model = make()
    with pytest.raises(HpoError, match=found) as caught:
        find_sites(model, lambda: model(torch.zeros(ROWS, 5)))
    assert caught.value.hint


def test_a_model_without_layers_that_respond_is_refused() -> None:
    with pytest.raises(HpoError, match="no layer that could respond"):
        Response([], 1, torch.zeros(()), 0)

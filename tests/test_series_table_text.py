"""Operations on series, tables and texts: what is special to each, beside the contract of all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search_spaces import Batch, HpoError, catalogue, plugins
from search_spaces.augmentation import bpe
from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.vocabulary import MASK, PAD, Vocabulary, renumbered
from search_spaces.passes import Beginning
from search_spaces.regularizer import Regularizer

SERIES = (
    "frequency_mask", "jitter", "magnitude_warp", "permutation", "scaling", "speed", "time_warp",
    "window_slice",
)  # fmt: skip
TOKENS = ("span_corruption", "token_drop", "token_mask", "token_swap")
SMOOTH = tuple(name for name in SERIES if name != "permutation")


def operation(name: str) -> Operation:
    found = plugins.load(catalogue.OPERATIONS, name, "OPERATION")
    assert isinstance(found, Operation)
    return found


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def series(rows: int = 64, channels: int = 3, length: int = 50) -> Tensor:
    """Waves of other frequencies and phases, about other means."""
    draws = torch.rand(3, rows, channels, 1, generator=rng(1), dtype=torch.float64)
    time = torch.arange(length, dtype=torch.float64)
    return torch.sin(time * (0.1 + 0.4 * draws[0]) + 6 * draws[1]) + 3 * draws[2]


def words(rows: int, length: int, pads: int = 0) -> Tensor:
    """Rows of words, all different, with padding at their ends."""
    tokens = 2 + torch.arange(rows * length).reshape(rows, length)
    tokens[:, length - pads :] = PAD
    return tokens


def applied(name: str, examples: Tensor, amount: float, seed: int = 0) -> Tensor:
    like = examples if examples.is_floating_point() else torch.zeros(())
    amounts = torch.full((len(examples),), amount, dtype=like.dtype)
    return operation(name).apply(examples, amounts, rng(seed))


# -- the contract, of every one -------------------------------------------------------------------


def example(name: str) -> Tensor:
    kind = operation(name).kind
    if kind == "table":
        return series()[:, 0]
    return series() if kind == "series" else words(64, 30, pads=5)


@pytest.mark.parametrize("name", (*SERIES, "feature_mask", *TOKENS))
def test_no_amount_is_no_change_and_more_is_more(name: str) -> None:
    examples = example(name)
    same = applied(name, examples, 0.0)
    if examples.is_floating_point():
        torch.testing.assert_close(same, examples, rtol=0, atol=1e-9)
    else:
        assert torch.equal(same, examples)
    full = operation(name).full
    changes = [applied(name, examples, part * full) - examples for part in (0.25, 0.5, 1.0)]
    sizes = [float(change.double().abs().sign().mean()) for change in changes]
    if name in SMOOTH:
        sizes = [float(change.abs().mean()) for change in changes]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("name", (*SERIES, "feature_mask", *TOKENS))
def test_an_example_depends_on_its_own_amount_and_the_draws_on_the_shape(name: str) -> None:
    examples, full = example(name), operation(name).full
    amounts = torch.linspace(0, full, len(examples), dtype=torch.float64)
    generator = rng()
    mixed = operation(name).apply(examples, amounts, generator)
    after = generator.get_state()
    for place in (0, 7, len(examples) - 1):
        generator = rng()
        alike = operation(name).apply(examples, amounts[place].expand_as(amounts), generator)
        torch.testing.assert_close(alike[place], mixed[place])
        assert torch.equal(after, generator.get_state())
    others = examples.roll(1, 0)
    others[7] = examples[7]
    torch.testing.assert_close(operation(name).apply(others, amounts, rng())[7], mixed[7])


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_in_the_amounts(name: str) -> None:
    amounts = torch.linspace(0.05, 0.3, 4, dtype=torch.float64, requires_grad=True)
    examples = series(4, 2, 17)
    assert operation(name).differentiable

    def total(amount: Tensor) -> Tensor:
        return operation(name).apply(examples, amount, rng()).square().sum((1, 2))

    assert torch.autograd.gradcheck(total, amounts, eps=1e-7, atol=1e-5)
    (gradient,) = torch.autograd.grad(total(amounts).sum(), amounts)
    assert (gradient != 0).all()


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("name", SERIES)
def test_the_shortest_series_keep_their_shape(name: str, length: int) -> None:
    changed = applied(name, series(5, 2, length), operation(name).full)
    assert changed.shape == (5, 2, length) and changed.isfinite().all()


@pytest.mark.parametrize("name", (*SERIES, "feature_mask", *TOKENS))
def test_by_itself_an_operation_is_a_regularizer(name: str) -> None:
    record, examples = catalogue.load(f"augment.{name}"), example(name)
    batch, knob = Batch(examples, torch.zeros(len(examples))), f"augment.{name}"
    assert set(record.knobs) == {knob}
    off = hook(record)(batch, {knob: 0}, rng())
    assert torch.equal(off.inputs, examples)
    on = hook(record)(batch, {knob: record.knobs[knob].high}, rng())  # type: ignore[union-attr]
    assert not torch.equal(on.inputs, examples) and on.inputs.dtype == examples.dtype
    assert on.targets is batch.targets
    wrong = torch.zeros(4, 3, 8, 8)
    with pytest.raises(HpoError, match=f"{knob} needs inputs of shape"):
        hook(record)(Batch(wrong, torch.zeros(4)), {knob: 0.1}, rng())


def hook(
    record: Regularizer, batches: Callable[[], Iterator[Batch]] = lambda: iter(()), **said: Any
) -> Callable[..., Batch]:
    """The batch hook of a record, which remembers the beginning of a run if it does."""
    assert record.batch is not None
    if record.remember is None:
        return record.batch
    begun = beginning(batches, Vocabulary(**said))
    memory = record.remember(begun)
    return lambda batch, h, generator: record.batch(memory, batch, h, generator)  # type: ignore[misc]


def beginning(batches: Callable[[], Iterator[Batch]], vocabulary: Vocabulary) -> Beginning:
    def losses(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.inputs).sum(1)  # type: ignore[no-any-return]

    device = torch.device("cpu")
    return Beginning(nn.Linear(1, 1), losses, batches, None, None, 0, device, vocabulary)


# -- series ---------------------------------------------------------------------------------------


def test_jitter_is_a_share_of_each_channels_deviation() -> None:
    examples = torch.randn(3, 2, 20000, generator=rng(), dtype=torch.float64)
    examples *= torch.tensor([1.0, 50.0])[:, None]
    by = applied("jitter", examples, 0.2, 1) - examples
    torch.testing.assert_close(by.std(-1) / examples.std(-1), torch.full((3, 2), 0.2).double(),
                               rtol=0.03, atol=0)  # fmt: skip
    still = torch.full((2, 1, 9), 7.0)
    assert torch.equal(applied("jitter", still, 1.0), still)


def test_scaling_is_one_factor_a_channel_and_a_warp_of_magnitude_a_slow_one() -> None:
    ones = torch.ones(2000, 2, 40, dtype=torch.float64)
    factor = applied("scaling", ones, 0.3)
    assert torch.equal(factor, factor[:, :, :1].expand_as(factor))
    assert float(factor.log().std()) == pytest.approx(0.3, rel=0.05)
    assert abs(float(factor[:, :, 0].log().T.corrcoef()[0, 1])) < 0.1
    slow = applied("magnitude_warp", ones, 0.3).log()
    assert float(slow[:, :, 0].std()) == pytest.approx(0.3, rel=0.05), "knots at the ends"
    assert float(slow.diff(dim=-1).abs().max()) < 0.3 and float(slow.std(-1).mean()) > 0.1


def test_time_warp_keeps_the_ends_and_never_runs_backwards() -> None:
    clock = torch.arange(60, dtype=torch.float64).expand(200, 2, 60)
    warped = applied("time_warp", clock, 0.7)
    torch.testing.assert_close(warped[..., [0, -1]], clock[..., [0, -1]])
    assert float(warped.diff(dim=-1).min()) > 0
    assert torch.equal(warped[:, 0], warped[:, 1]), "channels share their time"
    assert float((warped - clock).abs().amax(-1).mean()) > 3


@pytest.mark.parametrize(("octaves", "step"), [(1.0, 2.0), (-1.0, 0.5)])
def test_speed_plays_about_the_middle(octaves: float, step: float) -> None:
    clock = torch.arange(41, dtype=torch.float64).expand(1, 1, 41)
    played = applied("speed", clock, octaves)[0, 0]
    assert float(played[20]) == 20
    torch.testing.assert_close(played[15:26].diff(), torch.full((10,), step).double())
    ends = (0.0, 40.0) if octaves > 0 else (10.0, 30.0)
    assert (float(played[0]), float(played[-1])) == ends


def test_window_slice_stretches_a_window_that_may_be_anywhere() -> None:
    clock = torch.arange(101, dtype=torch.float64).expand(500, 1, 101)
    cut = applied("window_slice", clock, 0.4)[:, 0]
    torch.testing.assert_close(cut.diff(dim=1), torch.full((500, 100), 0.6).double())
    assert float(cut[:, 0].min()) < 1 and float(cut[:, 0].max()) > 39
    assert float(cut.min()) >= 0 and float(cut.max()) <= 100


@pytest.mark.parametrize("cuts", [1, 3, 16])
def test_permutation_moves_whole_pieces(cuts: int) -> None:
    clock = torch.arange(80.0).expand(300, 2, 80)
    moved = applied("permutation", clock, float(cuts))
    assert torch.equal(moved.sort(-1).values, clock)
    assert torch.equal(moved[:, 0], moved[:, 1])
    joints = (moved[:, 0].diff(dim=1) != 1).sum(1)
    assert int(joints.max()) <= cuts and int(joints.min()) < cuts
    assert float(joints.float().mean()) > cuts / 3


def test_frequency_mask_takes_out_one_band_and_keeps_the_mean() -> None:
    noise = torch.randn(100, 2, 128, generator=rng(), dtype=torch.float64) + 5
    masked = applied("frequency_mask", noise, 0.25)
    kept = torch.fft.rfft(masked).abs() / torch.fft.rfft(noise).abs()
    torch.testing.assert_close(kept[..., 0], torch.ones(100, 2).double())
    torch.testing.assert_close((1 - kept).sum(-1), torch.full((100, 2), 16.0).double())
    gone = kept[:, 0] < 0.999
    assert torch.equal(gone, kept[:, 1] < 0.999)
    assert (gone.int().diff(dim=1).abs().sum(1) <= 2).all(), "one band"
    assert gone[:, 1].any() and gone[:, -1].any()


# -- tables ---------------------------------------------------------------------------------------


def test_feature_mask_blanks_its_share() -> None:
    masked = applied("feature_mask", torch.ones(4000, 20), 0.3)
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert set(masked.flatten().tolist()) == {0.0, 1.0}


def test_swap_noise_takes_values_of_other_rows_in_the_same_column() -> None:
    change = hook(catalogue.load("swap_noise"))
    table = torch.arange(600.0).reshape(100, 6)
    batch = Batch(table, torch.zeros(100))
    swapped = change(batch, {"swap_noise": torch.linspace(0, 1, 100)}, rng()).inputs
    assert torch.equal(swapped % 6, table % 6), "the column"
    assert torch.equal(swapped[0], table[0]) and (swapped[-1] != table[-1]).all(), "another row"
    assert float((swapped != table).float().mean()) == pytest.approx(0.5, abs=0.1)
    one = Batch(table[:1], torch.zeros(1))
    assert torch.equal(change(one, {"swap_noise": 1.0}, rng()).inputs, table[:1])


def test_group_mask_blanks_what_is_correlated_with_a_drawn_column() -> None:
    causes = torch.randn(3000, 3, generator=rng(), dtype=torch.float64)
    noise = 0.1 * torch.randn(3000, 9, generator=rng(1), dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 20.0]).repeat(3)
    table = signs * (causes.repeat_interleave(3, 1) + noise) + 1000
    batches = [Batch(part, torch.zeros(len(part))) for part in torch.split(table, 700)]
    change = hook(catalogue.load("group_mask"), lambda: iter(batches))
    masked = change(batches[0], {"group_mask": 1 / 3}, rng()).inputs
    groups = (masked == 0).reshape(-1, 3, 3)
    assert (groups.all(2).sum(1) == 1).all() and (groups.sum((1, 2)) == 3).all()
    assert (groups.all(2).float().mean(0) > 0.2).all(), "each group in its turn"
    assert torch.equal(change(batches[0], {"group_mask": 0.0}, rng()).inputs, batches[0].inputs)
    everything = change(batches[0], {"group_mask": 1.0}, rng()).inputs
    assert not everything.any()
    with pytest.raises(HpoError, match="group_mask needs inputs of shape"):
        change(Batch(torch.zeros(2, 1, 4), torch.zeros(2)), {"group_mask": 0.1}, rng())


def test_the_order_of_columns_is_that_of_their_correlations() -> None:
    table = torch.randn(400, 5, generator=rng()).cumsum(1)
    table[:, 3] = 4.0
    batches = [Batch(part, torch.zeros(len(part))) for part in torch.split(table, 150)]
    record = catalogue.load("group_mask")
    assert record.remember is not None
    places = record.remember(beginning(lambda: iter(batches), Vocabulary()))
    expected = table.double().T.corrcoef().abs().nan_to_num().fill_diagonal_(2)
    assert torch.equal(places.argsort(1), expected.argsort(dim=1, descending=True, stable=True))


# -- texts ----------------------------------------------------------------------------------------


def test_numbers_of_operations_stand_for_those_of_the_task() -> None:
    seen = []

    def look(tokens: Tensor) -> Tensor:
        seen.append(tokens)
        return torch.tensor([[PAD, MASK, 2, 9]])

    tokens = torch.tensor([[0, 7, 5, 3]], dtype=torch.int32)
    back = renumbered(tokens, Vocabulary(pad=7, mask=3), look)
    assert seen[0].tolist() == [[2, PAD, 7, MASK]]
    assert back.tolist() == [[7, 3, 0, 7]] and back.dtype == torch.int32
    assert renumbered(tokens, Vocabulary(pad=7), look).tolist() == [[7, 7, 0, 7]]
    assert torch.equal(renumbered(tokens, Vocabulary(pad=7, mask=3), lambda x: x), tokens)


def test_a_task_says_what_its_tokens_are() -> None:
    class Task:
        pad_token = 3
        mask_token = 4

    assert Vocabulary.of(Task()) == Vocabulary(3, 4)
    assert Vocabulary.of(object()) == Vocabulary(0, None)
    for name, wrong in (("pad_token", "0"), ("mask_token", True), ("token_parts", torch.ones(3))):
        task = Task()
        setattr(task, name, wrong)
        with pytest.raises(HpoError, match=name):
            Vocabulary.of(task)


def test_token_drop_closes_up_and_keeps_a_token() -> None:
    tokens = words(400, 12, pads=3)
    dropped = applied("token_drop", tokens, 0.4)
    length = (dropped != PAD).sum(1)
    assert float(length.float().mean()) == pytest.approx(0.6 * 9, abs=0.2)
    for row, was in zip(dropped, tokens, strict=True):
        left = row[row != PAD].tolist()
        assert left == [token for token in was.tolist() if token in left]
        assert not row[len(left) :].any(), "padding at the end"
    assert ((applied("token_drop", tokens, 1.0) != PAD).sum(1) == 1).all()
    from_left = applied("token_drop", tokens.flip(1), 0.4)
    assert torch.equal((from_left[:, -1] != PAD), torch.ones(400, dtype=torch.bool))
    assert (from_left[:, :3] == PAD).all()
    nothing = torch.zeros(2, 4, dtype=torch.long)
    assert torch.equal(applied("token_drop", nothing, 0.5), nothing)


def test_token_mask_hides_its_share_of_the_words() -> None:
    tokens = words(500, 20, pads=4)
    hidden = applied("token_mask", tokens, 0.25)
    assert float((hidden[:, :16] == MASK).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(hidden[:, 16:], tokens[:, 16:])
    assert torch.equal(hidden.where(hidden != MASK, tokens), tokens)


def test_span_corruption_shrinks_spans_of_three_to_a_mask() -> None:
    tokens = words(2000, 40, pads=6)
    spans = applied("span_corruption", tokens, 0.2)
    kept = (spans > MASK).sum().item()
    assert 1 - kept / (2000 * 34) == pytest.approx(0.2, abs=0.01)
    for row, was in zip(spans[:200].tolist(), tokens[:200].tolist(), strict=True):
        text = [token for token in row if token != PAD]
        rebuilt, place = [], 0
        for token in text:
            if token == MASK:
                following = text[text.index(MASK) + 1 :]
                end = next((was.index(t) for t in following if t != MASK), 34)
                assert end - place >= min(3, 34 - place), "at least a whole span"
                place, text[text.index(MASK)] = end, PAD
            else:
                assert token == was[place]
                place += 1
            rebuilt.append(token)
        assert place == 34 and not any(row[len(rebuilt) :])


def test_token_swap_exchanges_neighbours() -> None:
    tokens = words(600, 9, pads=2)
    swapped = applied("token_swap", tokens, 0.3)
    assert torch.equal(swapped.sort(1).values, tokens.sort(1).values)
    assert int((swapped - tokens)[:, :7].abs().max()) == 1
    assert torch.equal(swapped[:, 7:], tokens[:, 7:])
    inner = swapped[:, 1:6] != tokens[:, 1:6]
    assert float(inner.float().mean()) == pytest.approx(0.3, abs=0.03)


# -- BPE dropout ----------------------------------------------------------------------------------

MERGES = [("l", "o"), ("lo", "w"), ("e", "r"), ("low", "er"), ("n", "e"), ("ne", "w"), ("e", "w")]


def plain(word: str) -> tuple[str, ...]:
    """Byte-pair encoding as it is usually written: each merge in its turn, wherever it applies."""
    tokens = list(word)
    for left, right in MERGES:
        place = 0
        while place < len(tokens) - 1:
            if (tokens[place], tokens[place + 1]) == (left, right):
                tokens[place : place + 2] = [left + right]
            place += 1
    return tuple(tokens)


def test_without_dropout_a_word_is_encoded_as_ever() -> None:
    for length in (1, 2, 3, 4):
        for letters in itertools.product("lowern", repeat=length):
            word = "".join(letters)
            assert bpe.encode(word, MERGES, 0.0, rng()) == plain(word)
    assert bpe.encode("lowernew", MERGES, 0.0, rng()) == ("lower", "new")
    assert bpe.encode("lowernew", MERGES, 1.0, rng()) == tuple("lowernew")
    assert bpe.encode("", MERGES, 0.5, rng()) == ()


def test_with_dropout_a_word_has_many_segmentations() -> None:
    generator = rng()
    found = [bpe.encode("newer", MERGES, 0.3, generator) for _ in range(2000)]
    assert {"".join(tokens) for tokens in found} == {"newer"}
    assert ("n", "ew", "er") in found, "a merge that plain encoding never makes"
    assert found.count(("new", "er")) > 200 and len(set(found)) >= 5
    assert found == [
        bpe.encode("newer", MERGES, 0.3, again) for again in [rng()] for _ in range(2000)
    ]


TEXT = ["l", "o", "w", "e", "r", "n", "lo", "low", "er", "lower", "ne", "new", "ew"]
NUMBERS = {token: place + 1 for place, token in enumerate(TEXT)}


def spelled(row: Tensor) -> list[str]:
    return [TEXT[token - 1] for token in row.tolist() if token != 0]


def test_tokens_fall_into_their_parts() -> None:
    table = bpe.parts(MERGES, NUMBERS)
    change = hook(catalogue.load("bpe_dropout"), parts=table)
    tokens = torch.tensor([[NUMBERS["lower"], NUMBERS["new"]] + [0] * 8]).repeat(2000, 1)
    batch = Batch(tokens, torch.zeros(2000))
    assert torch.equal(change(batch, {"bpe_dropout": 0.0}, rng()).inputs, tokens)
    whole = change(batch, {"bpe_dropout": 1.0}, rng()).inputs
    assert spelled(whole[0]) == list("lowernew") and not whole[:, 8:].any()
    split = change(batch, {"bpe_dropout": 0.4}, rng()).inputs
    texts = [spelled(row) for row in split]
    assert {"".join(text) for text in texts} == {"lowernew"}
    shares = {name: sum(name in text for text in texts) / 2000 for name in TEXT}
    # A token stays with 0.6; its part is there with 0.4 and stays with 0.6.
    assert shares["lower"] == pytest.approx(0.6, abs=0.03)
    assert shares["low"] == pytest.approx(0.4 * 0.6, abs=0.03)
    assert shares["lo"] == pytest.approx(0.4 * 0.4 * 0.6, abs=0.03)
    assert shares["ew"] == 0


def test_a_row_that_grows_too_long_is_cut_off() -> None:
    change = hook(catalogue.load("bpe_dropout"), parts=bpe.parts(MERGES, NUMBERS))
    tokens = torch.tensor([[NUMBERS["lower"], NUMBERS["new"], NUMBERS["n"]]], dtype=torch.int32)
    split = change(Batch(tokens, torch.zeros(1)), {"bpe_dropout": 1.0}, rng()).inputs
    assert spelled(split[0]) == ["l", "o", "w"] and split.dtype == torch.int32


def test_parts_that_are_missing_or_circular_are_refused() -> None:
    record = catalogue.load("bpe_dropout")
    with pytest.raises(HpoError, match="does not say into what"):
        hook(record)
    with pytest.raises(HpoError, match="rounds of taking apart"):
        hook(record, parts=torch.tensor([[-1, -1], [1, 0]]))
    with pytest.raises(HpoError, match="speaks of 'ab', which has no number"):
        bpe.parts([("a", "b")], {"a": 0, "b": 1})
    unmerged = hook(record, parts=torch.full((5, 2), -1))
    tokens = Batch(torch.tensor([[1, 2, 4]]), torch.zeros(1))
    assert torch.equal(unmerged(tokens, {"bpe_dropout": 1.0}, rng()).inputs, tokens.inputs)

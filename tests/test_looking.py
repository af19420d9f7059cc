"""Regularizers that look at passes of the model, remember, hide keys, or change where a step looks.

Run with: pytest tests/test_looking.py
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import SHORT, Blobs, constant, numbers, weights

from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.selftuning import SelfTuning
from objectives import Branch
from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.state import restored_model
from objectives.training.tuner import Follow
from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.evaluating import evaluating
from search_spaces.passes import Beginning, Pass
from search_spaces.regularizer import Batch, Regularizer, Strengths, spread
from search_spaces.schedule import Schedule, Track
from search_spaces.space import SearchSpace

KNOBS = {"probe": Float(0.0, 10.0, start=1.0, off=0.0)}
ONE_STEP = Training(steps=1, optimizer="sgd", learning_rate=0.5, learning_rate_schedule="constant")


def record(**hooks: Any) -> Regularizer:
    return Regularizer(knobs=KNOBS, **hooks)


def trained(
    task: Any, probe: Regularizer, strength: float = 1.0, training: Training = SHORT, **given: Any
) -> list[Measurement]:
    return list(train(task, {"probe": probe}, constant(probe=strength), training, 0, **given))


class Normed(Blobs):
    """Blobs with a batch norm in the model."""

    def model(self, seed: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.models.append(model)
        return model


class Attending(Blobs):
    """Blobs whose four numbers are a sequence that a small transformer reads."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal

    def model(self, seed: int) -> nn.Module:
        model = Reader(self.causal)
        self.models.append(model)
        return model


class Reader(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.embed, self.causal = nn.Linear(1, 8), causal
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(4) if self.causal else None
        read = self.block(self.embed(x[..., None]), src_mask=mask, is_causal=self.causal)
        return self.last(read.mean(1))


class Residual(Blobs):
    """Blobs whose model has the end of a residual branch."""

    def model(self, seed: int) -> nn.Module:
        model = Skipping()
        self.models.append(model)
        return model


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch, self.end, self.last = nn.Linear(4, 4), Branch(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.end(self.branch(x)))


def seen_by(task: Blobs, training: Training = ONE_STEP, **hooks: Any) -> list[Pass]:
    """The passes that a regularizer is shown, which adds nothing."""
    passes: list[Pass] = []

    def look(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        passes.append(seen)
        return torch.zeros(len(seen.outputs))

    trained(task, record(loss_output=look, **hooks), training=training)
    return passes


def test_a_pass_holds_what_went_in_and_what_came_out() -> None:
    task = Blobs()
    (seen,) = seen_by(task)
    assert torch.equal(seen.raw.inputs, task.seen[0].inputs)
    assert seen.outputs.shape == (10, 3)
    assert seen.embedding("probe").shape == (10, 16)
    still = Training(steps=1, optimizer="sgd", learning_rate=1e-30)
    (seen,) = seen_by(task := Blobs(), still)
    last: Any = task.models[0][-1]  # type: ignore[index]
    torch.testing.assert_close(last(seen.features), seen.outputs)
    assert seen.attention == ()


def test_the_raw_batch_is_the_one_before_regularizers_and_a_view_is_drawn_anew() -> None:
    views: list[Tensor] = []

    def disturb(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
        return batch.shift_inputs(h["probe"], rng)

    def look(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        assert not torch.equal(seen.raw.inputs, seen.batch.inputs)
        views.extend([seen.raw.inputs, seen.batch.inputs, seen.view().inputs, seen.view().inputs])
        return torch.zeros(len(seen.outputs))

    trained(Blobs(), record(batch=disturb, loss_output=look), training=ONE_STEP)
    raw, first, second, third = views
    assert not torch.equal(second, third) and not torch.equal(first, second)
    assert float((third - raw).std()) == pytest.approx(1.0, abs=0.4)


def test_what_is_added_to_the_losses_is_trained_on_and_not_counted_as_loss() -> None:
    def shrink(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        return spread(h["probe"], seen.outputs[:, 0]) * seen.outputs.square().sum(1)

    plain, shrunk = Blobs(), Blobs()
    trained(plain, record(loss_output=shrink), 0.0, Training(steps=80, learning_rate=0.01))
    trained(shrunk, record(loss_output=shrink), 1.0, Training(steps=80, learning_rate=0.01))
    inputs = plain.data["train"][0]
    free, held = (task.models[0].eval()(inputs).detach() for task in (plain, shrunk))
    assert float(held.square().mean()) < 0.3 * float(free.square().mean())


def test_one_number_for_the_batch_adds_to_the_mean() -> None:
    def constant_loss(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        return torch.as_tensor(h["probe"]) * (1.0 + 0.0 * seen.outputs.sum())

    flat = Training(steps=2, evaluations=1, optimizer="sgd", learning_rate=1e-30)
    (without,) = trained(Blobs(), record(loss_batch=constant_loss), 0.0, flat)
    (added,) = trained(Blobs(), record(loss_batch=constant_loss), 3.0, flat)
    gap = added.metrics["train_loss"] - without.metrics["train_loss"]
    assert gap == pytest.approx(3.0, abs=1e-5)


def test_the_outputs_are_those_that_self_tuning_layers_answered() -> None:
    outputs: list[Tensor] = []

    class Straight(Blobs):
        def model(self, seed: int) -> nn.Module:
            return nn.Linear(4, 3)

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            outputs.append(model(batch.inputs))
            return functional.cross_entropy(outputs[-1], batch.targets, reduction="none")

    def look(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        assert seen.outputs is outputs[-1]
        return spread(h["probe"], seen.outputs[:, 0]) * seen.outputs.mean(1)

    records = {"probe": record(loss_output=look)}
    tuner = SelfTuning(dict(KNOBS), records, {"probe": 1.0}, SelfTuningOptions())
    assert len(list(train(Straight(), records, tuner, SHORT, 0))) == SHORT.evaluations


def test_passes_beside_leave_the_averages_of_norms_alone() -> None:
    def look(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        norm = seen.model[1]  # type: ignore[index]
        before = norm.running_mean.clone(), int(norm.num_batches_tracked)
        again = seen.again(seen.raw.inputs + 5.0)
        assert torch.equal(norm.running_mean, before[0])
        assert int(norm.num_batches_tracked) == before[1] == 1
        assert not torch.equal(again, seen.outputs)
        torch.testing.assert_close(seen.again(seen.batch.inputs), seen.outputs)
        torch.testing.assert_close(seen.embed(seen.batch.inputs), seen.features)
        return torch.zeros(len(seen.outputs))

    trained(Normed(), record(loss_output=look), training=ONE_STEP)


def test_the_weights_of_attention_are_shown_and_the_model_does_not_notice() -> None:
    task = Attending()
    (seen,) = seen_by(task, attends=True)
    (attention,) = seen.attention
    assert attention.shape == (10, 2, 4, 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(10, 2, 4))
    plain, watched = Attending(), Attending()
    seen_by(plain)
    seen_by(watched, attends=True)
    for one, other in zip(*(weights(t.models[0]).values() for t in (plain, watched)), strict=True):
        torch.testing.assert_close(one, other)


def test_of_several_calls_of_the_model_the_last_one_is_shown_alone() -> None:
    class Twice(Attending):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            model(batch.inputs[:3])
            return super().loss(model, batch)

    (seen,) = seen_by(Twice(), attends=True)
    (attention,) = seen.attention
    assert len(attention) == len(seen.outputs) == len(seen.embedding("probe")) == 10


@pytest.mark.parametrize("causal", [False, True])
def test_hidden_keys_get_no_attention_and_a_causal_mask_stays(causal: bool) -> None:
    def keep(shape: tuple[int, int, int], h: Strengths, rng: torch.Generator) -> Tensor:
        kept = torch.ones(shape, dtype=torch.bool)
        kept[:, :, 1] = False
        return kept

    (seen,) = seen_by(Attending(causal), attention=keep, attends=True)
    (attention,) = seen.attention
    torch.testing.assert_close(attention.sum(-1), torch.ones(10, 2, 4))
    assert not attention[..., 1].any()
    above = torch.ones(4, 4).triu(1).bool()
    assert bool(attention[..., above].any()) is not causal


def test_a_query_whose_keys_are_all_hidden_keeps_them() -> None:
    def keep(shape: tuple[int, int, int], h: Strengths, rng: torch.Generator) -> Tensor:
        kept = torch.zeros(shape, dtype=torch.bool)
        kept[:, 1:, 0] = True  # the first query may look at nothing
        return kept

    (seen,) = seen_by(Attending(), attention=keep, attends=True)
    (attention,) = seen.attention
    assert (attention[:, :, 0] > 0).all()
    torch.testing.assert_close(attention[:, :, 1:, 0], torch.ones(10, 2, 3))


def test_activations_act_at_the_ends_of_branches() -> None:
    def drop(x: Tensor, h: Strengths, rng: torch.Generator, site: nn.Module) -> Tensor:
        assert isinstance(site, Branch)
        return x * (1 - spread(h["probe"], x))

    task = Residual()
    (seen,) = seen_by(task, activation=drop, site="branch")
    torch.testing.assert_close(seen.embedding("probe"), seen.raw.inputs)


class Counter:
    """Remembers how many examples it has learned from."""

    def __init__(self) -> None:
        self.examples = 0

    def state_dict(self) -> dict[str, Any]:
        return {"examples": self.examples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.examples = state["examples"]


def counting(counters: list[Counter]) -> Regularizer:
    def remember(begun: Beginning) -> Counter:
        assert begun.classes == 3
        counters.append(Counter())
        return counters[-1]

    def look(memory: Counter, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        weight = spread(h["probe"], seen.outputs[:, 0])
        return weight * memory.examples * 1e-3 * seen.outputs.square().mean(1)

    def learn(memory: Counter, seen: Pass, h: Strengths, rng: torch.Generator) -> None:
        memory.examples += len(seen.outputs)

    return record(remember=remember, loss_output=look, learn=learn)


def test_what_is_remembered_changes_after_steps_alone_and_is_resumed(tmp_path: Path) -> None:
    counters: list[Counter] = []
    whole = trained(Blobs(), counting(counters))
    assert counters[0].examples == whole[-1].cost["examples"]
    path, begun = tmp_path / "c.pt", counting(counters)
    run = train(
        Blobs(), {"probe": begun}, constant(probe=1.0), SHORT, 0, checkpoint=path,
        checkpoint_seconds=0,
    )  # fmt: skip
    next(run), next(run)
    run.close()
    resumed = trained(Blobs(), counting(counters), checkpoint=path)
    assert numbers(resumed) == numbers(whole)
    assert counters[-1].examples == counters[0].examples


def test_who_learns_sees_the_weights_of_an_evaluation_without_noise_on_them() -> None:
    found: list[dict[str, Tensor]] = []

    def learn(seen: Pass, h: Strengths, rng: torch.Generator) -> None:
        found.append({name: p.detach().clone() for name, p in seen.model.named_parameters()})
        seen.again(seen.batch.inputs)
        assert all(torch.equal(p, found[-1][name]) for name, p in seen.model.named_parameters())

    def doubled(parameters: Any, h: Strengths, rng: torch.Generator) -> dict[str, Tensor]:
        return {name: 2 * p for name, p in parameters.items()}

    task = Blobs()
    records = {
        "last": record(parameter=doubled, evaluated=True),
        "noise": record(parameter=doubled),
        "probe": record(learn=learn, loss_output=lambda seen, h, rng: 0 * seen.outputs.mean(1)),
    }
    list(train(task, records, constant(probe=1.0), ONE_STEP, 0))
    for name, weight in weights(task.models[0]).items():
        assert torch.equal(found[0][name], 2 * weight)


def test_the_beginning_shows_the_start_and_draws_nothing_of_the_run() -> None:
    starts: list[dict[str, Tensor]] = []
    inputs: list[list[Tensor]] = []

    def remember(begun: Beginning) -> None:
        starts.append(dict(begun.weights()))
        inputs.extend([[b.inputs for b in begun.batches()] for _ in range(2)])
        assert begun.losses(begun.model, next(begun.batches())).shape == (10,)

    def nothing(_: None, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        return torch.zeros(len(seen.outputs))

    quiet, plain = Blobs(), Blobs()
    told = trained(quiet, record(remember=remember, loss_output=nothing))
    free = trained(plain, record(loss_output=lambda seen, h, rng: torch.zeros(len(seen.outputs))))
    assert numbers(told) == numbers(free)
    assert all(torch.equal(a, b) for a, b in zip(*inputs, strict=True))
    assert sum(map(len, inputs[0])) == 45
    fresh = Blobs()
    list(train(fresh, {}, constant(), Training(steps=1, optimizer="sgd", learning_rate=1e-30), 0))
    now = weights(fresh.models[0])
    assert all(torch.allclose(starts[0][name], now[name]) for name in now)


def uphill(parameters: Any, gradients: Any, h: Strengths) -> dict[str, Tensor]:
    norm = torch.cat([g.flatten() for g in gradients.values()]).norm().clamp(min=1e-12)
    return {name: p + h["probe"] * gradients[name] / norm for name, p in parameters.items()}


class Bowl(Blobs):
    """loss = 1/2 sum of curvature * w^2, the same for every example."""

    curvature = torch.tensor([1.0, 4.0, 9.0])

    def model(self, seed: int) -> nn.Module:
        model = nn.ParameterList([nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))])
        self.models.append(model)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        (weight,) = model.parameters()
        return (0.5 * self.curvature * weight.square()).sum().expand(len(batch.targets))


def test_a_step_with_ascent_is_the_closed_form_on_a_quadratic() -> None:
    task = Bowl()
    trained(task, record(ascent=uphill), 0.3, ONE_STEP)
    start = torch.tensor([1.0, -1.0, 0.5])
    slope = task.curvature * start
    higher = start + 0.3 * slope / slope.norm()
    (weight,) = task.models[0].parameters()
    torch.testing.assert_close(weight.detach(), start - 0.5 * task.curvature * higher)


def test_ascent_costs_two_gradients_and_at_zero_it_changes_nothing() -> None:
    plain = trained(Blobs(), record(loss_example=lambda losses, h: losses))
    still = trained(Blobs(), record(ascent=uphill), 0.0)
    for one, other in zip(plain, still, strict=True):
        assert one.metrics["val_loss"] == pytest.approx(other.metrics["val_loss"], rel=1e-5)
        assert other.cost["gradients"] == 2 * one.cost["gradients"]


def test_ascent_of_some_rows_leaves_the_gradient_of_the_others_where_it_was() -> None:
    def first_class(batch: Batch, h: Strengths) -> Tensor:
        targets = batch.targets
        return (targets.argmax(1) if targets.ndim == 2 else targets) == 0

    def chosen(rows: Callable[[Batch, Strengths], Tensor] | None) -> dict[str, Tensor]:
        task = Normed()
        trained(task, record(ascent=uphill, rows=rows), 2.0, ONE_STEP)
        return weights(task.models[0])

    every = chosen(lambda batch, h: torch.ones(len(batch.targets), dtype=torch.bool))
    none = chosen(lambda batch, h: torch.zeros(len(batch.targets), dtype=torch.bool))
    some, whole = chosen(first_class), chosen(None)
    plain_task = Normed()
    trained(plain_task, record(loss_example=lambda losses, h: losses), 2.0, ONE_STEP)
    plain = weights(plain_task.models[0])
    for name in plain:
        torch.testing.assert_close(every[name], whole[name])
        torch.testing.assert_close(none[name], plain[name])
    assert not torch.allclose(some["0.weight"], whole["0.weight"])
    assert not torch.allclose(some["0.weight"], plain["0.weight"])


def test_an_ascent_of_a_loss_without_gradient_is_refused_with_a_sentence() -> None:
    class Constant(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().loss(model, batch).detach()

    with pytest.raises(HpoError, match="the loss has no gradient"):
        trained(Constant(), record(ascent=uphill), training=ONE_STEP)


def test_weights_made_from_what_is_trained_hold_in_evaluation_and_are_saved(tmp_path: Path) -> None:
    def halved(parameters: Any, h: Strengths, rng: torch.Generator) -> dict[str, Tensor]:
        return {name: p / (1 + h["probe"]) for name, p in parameters.items()}

    still = Training(steps=1, evaluations=1, optimizer="sgd", learning_rate=1e-30)
    path = tmp_path / "c.pt"
    task = Blobs()
    (found,) = trained(
        task, record(parameter=halved, evaluated=True), 1.0, still, checkpoint=path,
        checkpoint_seconds=0,
    )  # fmt: skip
    inputs, targets = task.data["validation"]
    start = weights(task.models[0])
    model = task.model(0).eval()
    model.load_state_dict({name: w / 2 for name, w in start.items()})
    expected = float(functional.cross_entropy(model(inputs), targets).detach())
    assert found.metrics["val_loss"] == pytest.approx(expected, rel=1e-5)
    restored = restored_model(task, path).eval()
    torch.testing.assert_close(restored(inputs), model(inputs))
    assert all(torch.equal(w, start[name]) for name, w in weights(task.models[0]).items())


def test_a_resumed_run_judges_by_the_weights_of_the_evaluation_before(tmp_path: Path) -> None:
    def divided(parameters: Any, h: Strengths, rng: torch.Generator) -> dict[str, Tensor]:
        return {name: p / (1 + h["divided"]) for name, p in parameters.items()}

    def judged(model: nn.Module, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
        with evaluating(model), torch.no_grad():
            return batch._replace(inputs=batch.inputs * model(batch.inputs).exp().mean())

    knobs = {"divided": KNOBS["probe"]}
    records = {
        "divided": Regularizer(knobs, parameter=divided, evaluated=True),
        "probe": record(batch=judged, remember=lambda begun: begun.model),
    }
    rising = Schedule(SearchSpace(knobs), {"divided": Track("linear", (0.0, 1.0), (0.0, 9.0))})

    def begun(**given: Any) -> Any:
        follow = Follow(rising.pin(KNOBS, {"probe": 1.0}))
        return train(Blobs(), records, follow, SHORT, 0, **given)

    whole, path = numbers(list(begun())), tmp_path / "c.pt"
    run = begun(checkpoint=path, checkpoint_seconds=0)
    next(run), next(run)
    run.close()
    assert numbers(list(begun(checkpoint=path))) == whole


def test_a_model_that_shows_no_outputs_is_refused_with_a_sentence() -> None:
    def look(seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
        raise AssertionError("there is nothing to look at")

    with pytest.raises(HpoError, match="what the model puts out") as error:
        trained(Bowl(), record(loss_output=look), training=ONE_STEP)
    assert "call model(batch.inputs)" in error.value.hint


def test_two_ascents_are_refused() -> None:
    records = {"probe": record(ascent=uphill)}
    other = Regularizer(knobs={"other": Float(0.0, 1.0, off=0.0)}, ascent=uphill)
    with pytest.raises(HpoError, match="other and probe both say"):
        list(train(Blobs(), {**records, "other": other}, constant(probe=1, other=1), ONE_STEP, 0))


def test_what_compares_an_example_with_itself_is_refused_beside_what_blends_it() -> None:
    records = {"probe": record(loss_output=lambda seen, h, rng: seen.outputs[:, 0], whole=True)}
    blend = Regularizer(
        knobs={"blend": Float(0.0, 1.0, off=0.0)}, batch=lambda batch, h, rng: batch, stage="mix"
    )
    with pytest.raises(HpoError, match="probe compares an example with itself, and blend"):
        list(train(Blobs(), {**records, "blend": blend}, constant(probe=1, blend=1), ONE_STEP, 0))


def test_batches_are_augmented_first_then_made_noisy_then_mixed() -> None:
    order: list[str] = []

    def noting(name: str, stage: Any) -> Regularizer:
        def note(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
            order.append(name)
            return batch

        return Regularizer(knobs={name: Float(0.0, 1.0, off=0.0)}, batch=note, stage=stage)

    stages = {"a": "mix", "b": "noise", "c": "augment", "d": "augment"}
    records = {name: noting(name, stage) for name, stage in stages.items()}
    list(train(Blobs(), records, constant(**dict.fromkeys(stages, 1.0)), ONE_STEP, 0))
    assert order[-4:] == ["c", "d", "b", "a"]


def test_after_an_ascent_what_learns_sees_the_pass_at_the_weights_themselves() -> None:
    seen: list[Tensor] = []

    def remember(begun: Beginning) -> Beginning:
        return begun

    def learn(begun: Beginning, passed: Pass, h: Strengths, rng: torch.Generator) -> None:
        seen.append(passed.outputs.detach())

    learner = record(remember=remember, learn=learn, loss_output=_nothing)
    climber = Regularizer(knobs={"climb": Float(0.0, 9.0, off=0.0)}, ascent=_far)
    still = Training(steps=1, optimizer="sgd", learning_rate=1e-30)
    list(train(Normed(), {"probe": learner}, constant(probe=1.0), still, 0))
    records = {"probe": learner, "climb": climber}
    list(train(Normed(), records, constant(probe=1.0, climb=1.0), still, 0))
    torch.testing.assert_close(seen[1], seen[0])


def _nothing(_: Any, seen: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    return torch.zeros(len(seen.outputs))


def _far(parameters: Any, gradients: Any, h: Strengths) -> dict[str, Tensor]:
    return {name: p + h["climb"] for name, p in parameters.items()}


def test_the_span_of_the_inputs_is_looked_for_once_however_many_ask() -> None:
    asked: list[float] = []

    class Counting(Blobs):
        passes = 0

        def batches(self, split: str, rng: torch.Generator) -> Any:
            self.passes += split == "train"
            return super().batches(split, rng)

    def remember(begun: Beginning) -> None:
        asked.extend(begun.span)

    def nothing(_: None, losses: Tensor, h: Strengths) -> Tensor:
        return losses

    task = Counting()
    other = Regularizer(
        knobs={"other": Float(0.0, 1.0, off=0.0)}, remember=remember, loss_example=nothing
    )
    records = {"probe": record(remember=remember, loss_example=nothing), "other": other}
    list(train(task, records, constant(probe=1.0, other=1.0), ONE_STEP, 0))
    inputs = task.data["train"][0]
    assert asked == [float(inputs.min()), float(inputs.max())] * 2
    assert task.passes == 2  # one for the span, one to train

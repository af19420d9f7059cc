"""Fashion-MNIST with few images: test loss without augmentation, with randaugment, with relaxed.

All trainings are of the same number of steps, of the same network, on the same images of a seed.
Three of them with augmentation, which differ in its strength, take about as much CPU time as five
without, which differ in their seed; the table shows what each arm took. In each training the
weights of the evaluation with the lowest validation loss are kept, and of an arm's trainings the
one whose lowest validation loss is lowest. Only then is the test split read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from _report import Report, Row, mean_interval

if TYPE_CHECKING:
    from torch import nn

SIZE = 10  # operations of relaxed
ROWS, STEPS, EVALUATIONS = 2000, 800, 20
NONE = "none"
# Knobs of each training of an arm; of those that are not named the defaults hold. About where these
# should lie was looked for on a split of its own (data_seed 100), by its validation loss.
ARMS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    NONE: ({},) * 5,
    "randaugment": tuple(
        {"randaugment.magnitude": magnitude, "randaugment.operations": 2}
        for magnitude in (6.0, 9.0, 12.0)
    ),
    "relaxed": tuple(
        {
            "relaxed": strength,
            "relaxed.probabilities": (0.9,) * SIZE,
            "relaxed.magnitudes": (1.0,) * SIZE,
        }
        for strength in (0.4, 0.55, 0.7)
    ),
}


@dataclass
class Outcome:
    """A training: its lowest validation loss, the weights there, CPU seconds, and the test."""

    arm: str
    knobs: Mapping[str, Any]
    val_loss: float
    weights: Mapping[str, Any] = field(repr=False)
    seconds: float
    test: Mapping[str, float] = field(default_factory=dict)


def accuracy(seeds: int, first: int, steps: int = STEPS, rows: int = ROWS) -> Report:
    """The arms over so many seeds from the first on; test losses, and differences with none."""
    chosen: dict[str, list[Outcome]] = {arm: [] for arm in ARMS}
    tried: list[dict[str, Any]] = []
    for seed in range(first, first + seeds):
        for arm, best in _of_seed(seed, steps, rows, tried):
            chosen[arm].append(best)
            print(f"seed {seed} {arm}: {_told(best)}", flush=True)
    found = [_row(arm, chosen) for arm in ARMS if arm != NONE]
    data: dict[str, Any] = {"rows": rows, "steps": steps, "seeds": seeds, "first": first}
    data["chosen"] = {arm: [_plain(o) for o in outcomes] for arm, outcomes in chosen.items()}
    return Report([_table(chosen)], found, data, tried)


def _of_seed(
    seed: int, steps: int, rows: int, tried: list[dict[str, Any]]
) -> Iterator[tuple[str, Outcome]]:
    """The best training of each arm by validation, with its test loss."""
    from objectives.fashion_mnist import FashionMnist

    task = FashionMnist(train_rows=rows, data_seed=seed)
    # The arms take turns, so that what slows the machine slows them alike.
    most = max(map(len, ARMS.values()))
    every = [(arm, n) for n in range(most) for arm in ARMS if n < len(ARMS[arm])]
    outcomes: dict[str, list[Outcome]] = {arm: [] for arm in ARMS}
    for arm, number in every:
        outcome = _trained(task, arm, ARMS[arm][number], 100 * seed + number, steps)
        outcomes[arm].append(outcome)
        tried.append({"seed": seed, **_plain(outcome)})
    for arm, found in outcomes.items():
        best = min(found, key=lambda outcome: outcome.val_loss)
        best.test = _tested(task, best)
        best.seconds = sum(outcome.seconds for outcome in found)
        yield arm, best


def _trained(task: Any, arm: str, knobs: Mapping[str, Any], seed: int, steps: int) -> Outcome:
    """One training; its weights are those of the evaluation with the lowest validation loss."""
    import torch

    from objectives.training.evaluation import evaluate
    from objectives.training.options import Training
    from objectives.training.randomness import GlobalStreams
    from objectives.training.state import Run, Setting
    from objectives.training.task import locked
    from objectives.training.tuner import Follow
    from search_spaces import SearchSpace, catalogue
    from search_spaces.schedule import Schedule

    regularizers = {} if arm == NONE else {arm: catalogue.load(arm)}
    domains = {k: d for r in regularizers.values() for k, d in r.knobs.items()}
    point = {**{k: d.start_value() for k, d in domains.items()}, **knobs}
    tuner = Follow(Schedule.constant(SearchSpace({}), {}).pin(domains, point))
    training = Training(steps=steps, learning_rate=3e-3, evaluations=EVALUATIONS)
    device = torch.device("cpu")
    streams = GlobalStreams(seed, device)
    best, weights, seconds = float("inf"), {}, 0.0
    with streams.active():
        run = Run(Setting(locked(task), regularizers, tuner, training, seed, device), streams)
        run.begin()
        for _ in range(EVALUATIONS):
            begun = time.process_time()
            for _ in range(steps // EVALUATIONS):
                run.train_step()
            # Evaluations are not counted: no arm has more of them.
            seconds += time.process_time() - begun
            loss = evaluate(task, run.model, "validation", device)["loss"]
            if loss < best:
                state = run.model.state_dict()
                best, weights = loss, {name: t.clone() for name, t in state.items()}
        run.close()
    return Outcome(arm, dict(knobs), best, weights, seconds)


def _tested(task: Any, outcome: Outcome) -> Mapping[str, float]:
    import torch

    from objectives.training.evaluation import evaluate

    model: nn.Module = task.model(0)
    model.load_state_dict(outcome.weights)
    return evaluate(task, model, "test", torch.device("cpu"))


def _row(arm: str, chosen: Mapping[str, Sequence[Outcome]]) -> Row:
    """Whether the arm's test loss is below that of none on every seed."""
    pairs = list(zip(chosen[arm], chosen[NONE], strict=True))
    better = sum(mine.test["loss"] < none.test["loss"] for mine, none in pairs)
    measured = f"better on {better} of {len(pairs)} seeds"
    return Row(f"test loss with {arm} against {NONE}", measured, "every seed", better == len(pairs))


def _table(chosen: Mapping[str, Sequence[Outcome]]) -> str:
    lines = [
        "| arm | test loss | difference | test error | CPU seconds | chosen |",
        "|---|---|---|---|---|---|",
    ]
    for arm, outcomes in chosen.items():
        losses = [outcome.test["loss"] for outcome in outcomes]
        apart = [a - b.test["loss"] for a, b in zip(losses, chosen[NONE], strict=True)]
        cells = (
            arm,
            mean_interval(losses).shown(4),
            "" if arm == NONE else mean_interval(apart).shown(4),
            mean_interval(outcome.test["error"] for outcome in outcomes).shown(4),
            mean_interval(outcome.seconds for outcome in outcomes).shown(1),
            "; ".join(_strengths(outcome.knobs) or "-" for outcome in outcomes),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plain(outcome: Outcome) -> dict[str, Any]:
    shown = ("arm", "knobs", "val_loss", "seconds", "test")
    return {name: getattr(outcome, name) for name in shown}


def _told(outcome: Outcome) -> str:
    test = f"test loss {outcome.test['loss']:.4f}, error {outcome.test['error']:.4f}"
    return f"{test}, {outcome.seconds:.0f} s  {_strengths(outcome.knobs)}"


def _strengths(knobs: Mapping[str, Any]) -> str:
    return " ".join(f"{value:g}" for value in knobs.values() if isinstance(value, int | float))

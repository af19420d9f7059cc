"""A run killed at any moment goes on from its checkpoint as if nothing had happened.

Run with: pytest tests/test_checkpoint.py
"""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_tasks import SHORT, Blobs, Restless, constant, numbers, regularizers, run, weights

from objectives.training import checkpoint as checkpoints
from objectives.training.evaluation import evaluate
from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.state import restored_model
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch

EVERYTHING = {"dropout": 0.3, "input_noise": 0.2, "mixup": 0.4, "weight_decay": 0.1, "l2": 1e-3}


class Killed(Exception):
    pass


class Mortal(Restless):
    """Ends with an exception at one training step, wherever the loop then is."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.steps = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            self.steps += 1
            if self.steps == self.dies_at:
                raise Killed
        return super().loss(model, batch)


def start(
    task: Any, training: Training, path: Path | None, tuner: Any = None, **knobs: float
) -> Any:
    tuner = tuner or constant(**knobs)
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_seconds": 0.0}
    return train(task, regularizers(*knobs), tuner, training, 3, **options)


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "sgd"])
def test_killed_in_any_step_a_run_ends_with_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    # 45 rows in batches of 10 are 5 steps a pass: measurements fall into the middle of passes.
    training = Training(steps=12, evaluations=4, optimizer=optimizer, warmup=0.2, clip=1.0)
    whole = Mortal()
    expected = list(start(whole, training, None, **EVERYTHING))
    for dies_at in range(1, 13) if optimizer == "adamw" else (2, 7, 9):
        path = tmp_path / f"{dies_at}.pt"
        with pytest.raises(Killed):
            list(start(Mortal(dies_at), training, path, **EVERYTHING))
        again = Mortal()
        assert numbers(list(start(again, training, path, **EVERYTHING))) == numbers(expected)
        assert again.steps == 12 - 3 * ((dies_at - 1) // 3)  # what was saved is not repeated
        for name, value in weights(whole.models[0]).items():
            assert torch.equal(value, weights(again.models[0])[name])


@pytest.mark.parametrize("taken", [1, 2, 3, 4])
def test_closed_after_any_measurement_a_run_can_go_on(taken: int, tmp_path: Path) -> None:
    expected = list(start(Restless(), SHORT, None, **EVERYTHING))
    trial = start(Restless(), SHORT, tmp_path / "c.pt", **EVERYTHING)
    first = [next(trial) for _ in range(taken)]
    trial.close()
    again = list(start(Restless(), SHORT, tmp_path / "c.pt", **EVERYTHING))
    assert again[:taken] == first  # seconds included: history is given back, not repeated
    assert numbers(again) == numbers(expected)


def test_killed_again_and_again(tmp_path: Path) -> None:
    expected = list(start(Mortal(), SHORT, None, **EVERYTHING))
    for _ in range(3):
        with pytest.raises(Killed):
            list(start(Mortal(5), SHORT, tmp_path / "c.pt", **EVERYTHING))
    done = list(start(Mortal(), SHORT, tmp_path / "c.pt", **EVERYTHING))
    assert numbers(done) == numbers(expected)


def test_a_finished_run_only_tells_its_history(tmp_path: Path) -> None:
    first = list(start(Blobs(), SHORT, tmp_path / "c.pt"))
    task = Blobs()
    assert list(start(task, SHORT, tmp_path / "c.pt")) == first
    assert task.seen == []


def test_a_run_that_became_nan_stays_so(tmp_path: Path) -> None:
    class Explodes(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            loss = super().loss(model, batch)
            return loss * float("nan") if len(self.seen) == 5 else loss

    steps = [m.step for m in start(Explodes(), SHORT, tmp_path / "c.pt")]
    assert steps == [3, 5]
    assert [m.step for m in start(Blobs(), SHORT, tmp_path / "c.pt")] == steps


def test_patience_goes_on_counting(tmp_path: Path) -> None:
    stuck = Training(steps=40, evaluations=20, patience=4, optimizer="sgd", learning_rate=1e-30)
    trial = start(Blobs(), stuck, tmp_path / "c.pt")
    next(trial), next(trial), next(trial)
    trial.close()
    assert [m.step for m in start(Blobs(), stuck, tmp_path / "c.pt")] == [2, 4, 6, 8, 10]


class Learner:
    """A tuner with all that later ones have: draws, validation batches, hooks, an optimizer."""

    def __init__(self) -> None:
        self.free = torch.zeros((), requires_grad=True)
        self.response = torch.full((3,), 0.1, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.free, self.response], lr=0.05)

    def begin(self, run: Any) -> None:
        self.shift = torch.zeros(())
        hook = run.model.last.register_forward_hook(
            lambda module, inputs, output: output + self.shift * self.response
        )
        run.keep(hook.remove)
        self.rng = run.noise

    def knobs(self, progress: float, rows: int) -> dict[str, Any]:
        self.shift = 0.1 * torch.randn((rows, 1), generator=self.rng)
        strength = (self.free.detach() + self.shift[:, 0]).sigmoid()
        return {"input_noise": strength}

    def after_step(self, run: Any, progress: float) -> None:
        self.shift = self.free.expand(1)
        loss = run.task.loss(run.model.eval(), run.next_batch("validation")).mean()
        run.model.train()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.shift = torch.zeros(())

    def point(self, progress: float) -> dict[str, Any]:
        return {"input_noise": float(self.free.detach().sigmoid())}

    def moving(self, progress: float) -> bool:
        return progress < 1.0

    def state_dict(self) -> dict[str, Any]:
        values = {"free": self.free.detach(), "response": self.response.detach()}
        return {**values, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.free.copy_(state["free"])
            self.response.copy_(state["response"])
        self.optimizer.load_state_dict(state["optimizer"])


def test_a_tuner_that_learns_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    records = regularizers("input_noise", "dropout")

    def begin(task: Mortal, path: Path | None) -> Any:
        class Both(Learner):
            def knobs(self, progress: float, rows: int) -> dict[str, Any]:
                return {**super().knobs(progress, rows), "dropout": 0.2}

            def point(self, progress: float) -> dict[str, Any]:
                return {**super().point(progress), "dropout": 0.2}

        options: dict[str, Any] = {"checkpoint": path, "checkpoint_seconds": 0.0}
        return train(task, records, Both(), SHORT, 3, **options)

    expected = list(begin(Mortal(), None))
    strengths = [m.point["input_noise"] for m in expected]
    assert len(set(strengths)) == 4
    for dies_at in (4, 6, 8, 11):
        path = tmp_path / f"{dies_at}.pt"
        with pytest.raises(Killed):
            list(begin(Mortal(dies_at), path))
        assert numbers(list(begin(Mortal(), path))) == numbers(expected)


LONG = Training(steps=400, evaluations=20)
SCRIPT = """
    import sys
    from pathlib import Path
    from test_checkpoint import EVERYTHING, LONG, start
    from toy_tasks import Restless
    for measurement in start(Restless(), LONG, Path(sys.argv[1]), **EVERYTHING):
        print(measurement.step, flush=True)
"""


@pytest.mark.slow
def test_killed_by_the_system_a_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent)])
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "c.pt")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL  # it had not come to its end
    again = start(Restless(), LONG, tmp_path / "c.pt", **EVERYTHING)
    assert numbers(list(again)) == numbers(list(start(Restless(), LONG, None, **EVERYTHING)))


# the file


def test_a_checkpoint_holds_the_model_for_evaluation(tmp_path: Path) -> None:
    task = Blobs()
    last = list(start(task, SHORT, tmp_path / "c.pt", dropout=0.3))[-1]
    model = restored_model(task, tmp_path / "c.pt")
    assert evaluate(task, model, "validation")["loss"] == last.metrics["val_loss"]


def test_a_checkpoint_holds_tensors_and_plain_data_only(tmp_path: Path) -> None:
    list(start(Restless(), SHORT, tmp_path / "c.pt", **EVERYTHING))
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert content["kind"] == "hpo-checkpoint" and content["format"] == 1
    assert [Measurement.from_json(m).step for m in content["history"]] == [3, 6, 9, 12]


def test_a_save_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = start(Mortal(), SHORT, tmp_path / "c.pt")
    next(trial)

    def full_disk(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full_disk)
        with pytest.raises(HpoError, match="cannot write the checkpoint"):
            next(trial)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    again = list(start(Mortal(), SHORT, tmp_path / "c.pt"))
    assert numbers(again) == numbers(list(start(Mortal(), SHORT, None)))


def test_a_half_written_new_file_does_not_matter(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        list(start(Mortal(8), SHORT, tmp_path / "c.pt"))
    (tmp_path / "c.pt.unfinished").write_bytes(b"half")
    again = list(start(Mortal(), SHORT, tmp_path / "c.pt"))
    assert numbers(again) == numbers(list(start(Mortal(), SHORT, None)))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(Path(self.where) / "broken-in"),)  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "foreign", "evil", "folder"])
def test_a_file_that_is_no_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    list(start(Blobs(), SHORT, path))
    whole = path.read_bytes()
    if damage == "evil":
        evil = Evil()
        evil.where = tmp_path  # type: ignore[attr-defined]
        path.write_bytes(pickle.dumps(evil))
    elif damage == "foreign":
        torch.save({"weights": torch.ones(3)}, path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        contents = {"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\x80" * 1000}
        path.write_bytes(contents[damage])
    with pytest.raises(HpoError) as error:
        list(start(Blobs(), SHORT, path))
    assert str(path) in error.value.message
    assert "delete it" in error.value.hint
    assert not (tmp_path / "broken-in").exists()


def test_a_checkpoint_of_another_trial_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    list(start(Blobs(), SHORT, path))
    for task, training, knobs, found in (
        (Blobs(), Training(steps=99), {}, "training"),
        (Blobs(), SHORT, {"l2": 0.1}, "regularizers"),
        (
            type("Other", (Blobs,), {"name": "other"})(),
            SHORT,
            {},
            "objective 'blobs', here 'other'",
        ),
    ):
        with pytest.raises(HpoError, match="belongs to another trial") as error:
            list(start(task, training, path, **knobs))
        assert found in error.value.message
    with pytest.raises(HpoError, match="seed 3, here 4"):
        list(train(Blobs(), {}, constant(), SHORT, 4, checkpoint=path))
    with pytest.raises(HpoError, match="does not fit this run"):
        list(start(type("Blobs", (Restless,), {})(), SHORT, path))


def test_saving_takes_at_most_a_fiftieth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    saved: list[float] = []

    def slow_save(path: Path, content: Any) -> None:
        nonlocal now
        saved.append(now)
        now += 2.0

    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoints, "save", slow_save)
    saver = checkpoints.Saver(tmp_path / "c.pt", None)
    for second in range(300):
        now = max(now, 100.0 + second)
        if saver.due(last=second == 299):
            saver.save({})
    assert saved == [100.0, 202.0, 304.0, 399.0]
    assert not checkpoints.Saver(None, None).due(last=True)


def test_without_a_checkpoint_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(Blobs())
    assert list(tmp_path.iterdir()) == []

"""The benchmarks: what they are measured on and compared with is right, and all their parts run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.problem import Bilevel
from hpo.bilevel.stn.freeknobs import FreeKnobs
from search_spaces.space import SearchSpace

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PARTS = ("cost", "memory", "race", "match", "hypergradient", "starts", "retrain", "studies")


@pytest.fixture
def regression(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with the closed form of linear regression under dropout."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _dropout_regression

    return _dropout_regression


def test_best_weights_leave_no_gradient_under_dropout(regression: Any) -> None:
    task, rates = regression.DropoutRegression(seed=0), torch.tensor([0.1, 0.3, 0.5, 0.6])
    model = task.model(0).train()
    for drop, rate in zip(model.drops, rates.tolist(), strict=True):
        drop.p = rate
    inputs, targets = (part.repeat_interleave(1000, dim=0) for part in task.data["train"])
    torch.manual_seed(0)
    lengths = []
    for weights in (task.best_weights(rates), task.best_weights(torch.zeros(4))):
        with torch.no_grad():
            model.linear.weight.copy_(weights[None])
        loss = (model(inputs) - targets).square().mean()
        lengths.append(float(torch.autograd.grad(loss, model.linear.weight)[0].norm()))
    assert lengths[0] < 0.03 * lengths[1]


def test_slope_is_that_of_the_validation_loss(regression: Any) -> None:
    task, knobs = regression.DropoutRegression(seed=1), regression.space()
    free = FreeKnobs(knobs, {"dropout": "example"}, dtype=torch.float64)
    center = free.initial(knobs.start)

    def loss(place: int, step: float) -> float:
        moved = center.clone()
        moved[place] += step
        return float(task.validation_loss(free.flat_values(moved)))

    quotients = [(loss(k, 1e-4) - loss(k, -1e-4)) / 2e-4 for k in range(len(center))]
    assert task.slope(knobs).tolist() == pytest.approx(quotients, rel=1e-5)
    # Groups with a signal want less dropout, the one without wants more.
    assert task.slope(knobs).sign().tolist() == [1, 1, 1, -1]


@pytest.mark.parametrize("name", ["Weights", "Halves"])
def test_searches_are_given_the_diagonal_of_the_hessian(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _hypergrad_problems

    problem = getattr(_hypergrad_problems, name)(data_seed=3)
    point = SearchSpace(problem.space).start
    flat = Bilevel(problem, point)
    t = flat.coordinates.inside(flat.coordinates.of(point) + torch.arange(len(flat.coordinates)))
    curvature = Curvature(flat, flat.start, t)
    hessian = curvature.products(torch.eye(640, dtype=torch.float64))
    assert torch.allclose(problem.curvatures(flat.knobs(t)), hessian.diag(), rtol=1e-12)


@pytest.mark.parametrize("arm", ["tpe", "cmaes", "gp"])
def test_searches_and_maid_begin_at_the_same_point(
    arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _hypergrad_search

    problem = _hypergrad_search.Halves(data_seed=1)
    theirs, ours = (_hypergrad_search._trace(problem, name, 0, 1)[0] for name in (arm, "maid"))
    assert theirs["true"] == pytest.approx(ours["true"], rel=1e-9)
    assert theirs["holdout"] == pytest.approx(ours["holdout"], rel=1e-5)


@pytest.mark.slow
def test_every_part_runs_and_leaves_its_numbers(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "stn.py"), "--quick", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("## ")] == [
        f"## {part}" for part in PARTS
    ]
    found = {p: json.loads((tmp_path / f"stn-{p}-quick.json").read_text()) for p in PARTS}
    for part in PARTS:
        assert found[part]["rows"], part
        assert found[part]["machine"]["torch"] == torch.__version__
        assert found[part]["settings"]["budget"] > 0
    arms = {run["job"]["arm"] for run in found["race"]["runs"]}
    assert {"fixed", "random", "tpe", "gp", "asha", "stn"} <= arms
    assert all(run["result"]["trace"] for run in found["race"]["runs"])
    # What was tuned in the race is what is trained anew.
    tuned = [run for run in found["race"]["runs"] if run["job"]["arm"] == "stn"]
    assert tuned[0] in found["retrain"]["runs"]


@pytest.mark.slow
def test_every_part_of_the_hypergradients_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "hypergrad.py"), "--quick"]
    command += ["--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = ("digits", "tv", "network", "methods", "intervals", "search", "ledger", "online")
    parts += ("quickstart",)
    for part in parts:
        assert f"## {part}" in done.stdout
        assert json.loads((tmp_path / f"hypergrad-{part}-quick.json").read_text())["rows"]


@pytest.mark.slow
def test_peers_that_are_not_there_are_named_and_ours_are_measured() -> None:
    command = [sys.executable, str(BENCHMARKS / "_peers_kernels.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert all("cannot be imported" in said["failed"][name] for name in ("betty", "torchopt"))
    assert said["conditions"]["ridge, 200"] == pytest.approx(24, abs=1)
    assert all(error < 1e-5 for error, _ in said["found"]["ours, cg 1e-08"].values())


@pytest.mark.slow
def test_peers_are_skipped_where_nothing_can_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    monkeypatch.setattr(peers, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(sys, "argv", ["peers.py", "--results", str(tmp_path)])
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    peers.main()
    assert "skipped: betty-ml and torchopt cannot be installed here" in capsys.readouterr().out
    assert not (tmp_path / "peers" / ".ready").exists()


def test_unknown_part_is_named_before_anything_runs() -> None:
    command = [sys.executable, str(BENCHMARKS / "stn.py"), "rase"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown part rase" in done.stderr and "hypergradient" in done.stderr


@pytest.mark.slow
@pytest.mark.cluster
def test_what_engine_ray_costs_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "ray.py"), "trivial", "--quick"]
    done = subprocess.run([*command, "--results", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| stock, no loggers | " in done.stdout
    found = json.loads((tmp_path / "ray.json").read_text())
    assert {row["figure"] for row in found["rows"]} >= {"6 trivial trials, seconds each"}


@pytest.mark.slow
def test_every_case_of_scale_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--quick", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| random, journal: up to trial |" in done.stdout
    found = json.loads((tmp_path / "scale-quick.json").read_text())
    assert [run["case"]["sampler"] for run in found["runs"]] == ["random", "tpe"]
    for case in found["runs"]:
        assert [part["until"] for part in case["parts"]] == list(range(20, 201, 20))
        assert all(part["ask_ms"] > 0 and part["memory_mib"] > 0 for part in case["parts"])


@pytest.mark.slow
def test_the_speed_of_augmentation_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    command = [sys.executable, str(BENCHMARKS / "augment.py"), "speed", "--quick"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "own / PIL loop" in done.stdout
    found = json.loads((tmp_path / "augment-speed-quick.json").read_text())
    assert len(found["rows"]) == 6
    for taken in found["data"].values():
        assert taken["own"] and all(seconds > 0 for times in taken.values() for seconds in times)


def test_the_peers_of_augmentation_change_images_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _augment_peers
    import _augment_speed

    rng = torch.Generator().manual_seed(0)
    for channels in (1, 3):
        images = torch.rand(300, channels, 12, 12, generator=rng).mul(255).round() / 255
        ours = _augment_speed.randaugment(images)()
        theirs = _augment_peers.pil_loop(images)
        assert ours.shape == theirs.shape == images.shape
        # One of the thirteen or fourteen operations changes nothing, and there are two.
        for changed in (ours, theirs):
            same = (changed - images).abs().flatten(1).amax(1) < 1e-6
            assert 0 < int(same.sum()) < 30
        apart = [float((changed - images).abs().mean()) for changed in (ours, theirs)]
        assert apart[0] == pytest.approx(apart[1], rel=0.25)

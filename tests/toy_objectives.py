"""Black-box objectives for tests of studies: each misbehaves in one way, or in none.

Options are given as objective_options. `folder` is where an objective leaves marks for the test to
read, because it runs in another process.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search_spaces.domains import Choice, Float, Int

Knobs = Callable[..., dict[str, Any]]
STEPS = 5


def curve(h: Knobs, seed: int, steps: int = STEPS) -> Iterator[dict[str, float]]:
    """A loss that falls over the steps towards a floor that depends on the knobs and the seed."""
    for step in range(1, steps + 1):
        progress = step / steps
        point = h(progress)
        floor = sum((value - 0.3) ** 2 for value in point.values() if isinstance(value, float))
        yield {
            "val_loss": floor + (1 - progress) * (0.5 + point["x"]) + 0.001 * seed,
            "accuracy": -floor + progress,
            "progress": progress,
        }


curve.space = {"x": Float(0, 1), "y": Float(1e-3, 1, "log"), "layers": Int(1, 4)}  # type: ignore[attr-defined]


def value(h: Knobs, seed: int) -> float:
    """Returns one number."""
    return float((h()["x"] - 0.3) ** 2)


def conditional(h: Knobs, seed: int) -> float:
    """The momentum counts only for one of the optimizers."""
    point = h()
    if point["optimizer"] == "sgd":
        return float(abs(point["momentum"] - 0.9))
    return float(point["x"])


conditional.space = {  # type: ignore[attr-defined]
    "x": Float(0, 1),
    "optimizer": Choice(("adam", "sgd")),
    "momentum": Float(0.5, 0.99, when={"optimizer": ("sgd",)}, off=0.5),
}


def held_out(h: Knobs, seed: int) -> Iterator[dict[str, float]]:
    """The validation loss wants a small x, the hold-out a large one."""
    x = h(1.0)["x"]
    yield {"val_loss": x, "holdout_loss": 1 - x}


def flat(h: Knobs, seed: int) -> float:
    """Never better than at first."""
    return 1.0


def level(h: Knobs, seed: int) -> Iterator[dict[str, float]]:
    """The same loss at each of ten steps."""
    for step in range(1, 11):
        yield {"val_loss": h(step / 10)["x"], "progress": step / 10}


def rising(h: Knobs, seed: int, folder: str) -> Iterator[dict[str, float]]:
    """Worse from trial to trial, so that a median pruner ends every one that it may end."""
    rank = len(list(Path(folder).glob("begun-*")))
    mark(folder, "begun")
    try:
        for step in range(1, 11):
            yield {"val_loss": rank + 1.0 / step, "progress": step / 10}
    finally:
        mark(folder, "finally")


def slow(h: Knobs, seed: int, folder: str, seconds: float = 20.0) -> Iterator[dict[str, float]]:
    """Says that it runs, then waits for the test to let it go on."""
    mark(folder, "running")
    yield {"val_loss": 1.0, "progress": 0.1}
    deadline = time.monotonic() + seconds
    while not Path(folder, "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    mark(folder, "done")
    yield {"val_loss": 0.5, "progress": 1.0}


def waited(h: Knobs, seed: int, folder: str, steps: int = 20) -> Iterator[dict[str, float]]:
    """Begins when the test says so; measures the seconds for which its reports held it up."""
    mark(folder, "running")
    number = len(list(Path(folder).glob("running-*"))) - 1
    deadline = time.monotonic() + 120
    while not Path(folder, f"go-{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    held = 0.0
    for step in range(1, steps + 1):
        before = time.monotonic()
        yield {"val_loss": h()["x"] / 3 + 1 / step, "held": held, "progress": step / steps}
        held += time.monotonic() - before


def timed(h: Knobs, seed: int, seconds: float = 0.0) -> Iterator[dict[str, float]]:
    """Five steps that take so long each."""
    for step in range(1, 6):
        time.sleep(seconds)
        yield {"val_loss": h()["x"] / step, "progress": step / 5}


def together(h: Knobs, seed: int, folder: str) -> float:
    """Ends only once another trial runs as well."""
    mark(folder, "running")
    deadline = time.monotonic() + 20
    while len(list(Path(folder).glob("running-*"))) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError("no other trial ran at the same time")
        time.sleep(0.005)
    return 1.0


def environment(h: Knobs, seed: int, folder: str) -> float:
    """Writes down what the process sees, and whether torch was there before its variables."""
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    torch = "torch" in sys.modules
    text = "\n".join([*(os.environ.get(name, "unset") for name in names), str(torch)])
    Path(folder, f"environment-{os.getpid()}").write_text(text)
    deadline = time.monotonic() + 20
    while len(list(Path(folder).glob("environment-*"))) < int(h()["workers"]):
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return 1.0


def sees(
    h: Knobs, seed: int, folder: str, at_once: int = 1, pruned: bool = False
) -> Iterator[dict[str, float]]:
    """Writes down the GPUs it sees and the parent of its process; goes on once so many have.

    With `pruned` it is worse from trial to trial, which a threshold can end.
    """
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    mine = mark(folder, f"sees-{gpus or 'none'}-{os.getppid()}")
    number = len(list(Path(folder).glob("see*-*")))
    deadline = time.monotonic() + 60
    while len(list(Path(folder).glob("see*-*"))) < at_once:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {at_once} ran at the same time")
        time.sleep(0.01)
    for step in range(1, 4):
        yield {"val_loss": number + 1.0 / step if pruned else h()["x"] / step, "progress": step / 3}
    mine.rename(mine.with_name(mine.name.replace("sees", "seen")))


def out_of_gpu(h: Knobs, seed: int, folder: str, times: int = 1) -> Iterator[dict[str, float]]:
    """The first trial, at the start values, runs out of the GPU's memory `times` times."""
    import torch

    mark(folder, f"x-{h()['x']}-sees-{os.environ['CUDA_VISIBLE_DEVICES']}")
    first = h()["x"] == 0.5
    yield {"val_loss": 1.0, "progress": 0.5}
    if first and len(list(Path(folder).glob("oom-*"))) < times:
        mark(folder, "oom")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    yield {"val_loss": h()["x"], "progress": 1.0}


# -- misbehaving --------------------------------------------------------------------------------


def raises(h: Knobs, seed: int) -> float:
    raise ValueError("expected 3 channels, got 1")


def raises_above(h: Knobs, seed: int, limit: float = 0.5) -> float:
    """Fails for some points only."""
    x = h()["x"]
    if x > limit:
        raise ValueError("too large")
    return float(x)


def raises_differently(h: Knobs, seed: int) -> float:
    raise ValueError(f"at {h()['x']}")


def never_finite(h: Knobs, seed: int, folder: str) -> Iterator[dict[str, float]]:
    mark(folder, "begun")
    yield {"val_loss": 1.0}
    yield {"val_loss": float("nan")}
    mark(folder, "went-on")


def holdout_nan(h: Knobs, seed: int) -> Iterator[dict[str, float]]:
    yield {"val_loss": 1.0, "holdout_loss": float("nan")}


def returns_nothing(h: Knobs, seed: int) -> None:
    return None


def yields_nothing(h: Knobs, seed: int) -> Iterator[dict[str, float]]:
    return
    yield {}


def other_metric(h: Knobs, seed: int) -> dict[str, float]:
    return {"loss": 1.0}


def text_metric(h: Knobs, seed: int) -> dict[str, Any]:
    return {"val_loss": "low"}


def exits(h: Knobs, seed: int) -> float:
    sys.exit(3)


def dies(h: Knobs, seed: int, code: int = 7) -> float:
    os._exit(code)


def interrupts_itself(h: Knobs, seed: int) -> float:
    raise KeyboardInterrupt


def ignores_close(h: Knobs, seed: int, folder: str) -> Iterator[dict[str, float]]:
    """Goes on yielding when it is pruned."""
    rank = len(list(Path(folder).glob("begun-*")))
    mark(folder, "begun")
    for step in range(1, 11):
        try:
            yield {"val_loss": rank + 1.0 / step, "progress": step / 10}
        except GeneratorExit:
            mark(folder, "ignored")
            yield {"val_loss": 0.0}


def fails_to_close(h: Knobs, seed: int, folder: str) -> Iterator[dict[str, float]]:
    """Raises while it cleans up after being pruned."""
    rank = len(list(Path(folder).glob("begun-*")))
    mark(folder, "begun")
    try:
        for step in range(1, 11):
            yield {"val_loss": rank + 1.0 / step, "progress": step / 10}
    except GeneratorExit:
        raise OSError("no space to clean up") from None


def forks(h: Knobs, seed: int) -> Iterator[dict[str, float]]:
    """Forks a process that comes back into the caller's code."""
    yield {"val_loss": 2.0}
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    yield {"val_loss": 1.0}


def forks_and_raises(h: Knobs, seed: int) -> float:
    """The forked process leaves the objective by an exception."""
    child = os.fork()
    if not child:
        raise RuntimeError("in the child")
    os.waitpid(child, 0)
    return 1.0


def leaves_process(h: Knobs, seed: int, folder: str, dies: bool = False) -> float:
    """Forks a process that outlives the trial, and holds open whatever this one has open."""
    child = os.fork()
    if not child:
        time.sleep(600)
        os._exit(0)
    Path(folder, "child").write_text(str(child))
    other = subprocess.Popen(["sleep", "600"])
    Path(folder, "other").write_text(str(other.pid))
    if dies:
        os._exit(9)
    return 1.0


def leaves_thread(h: Knobs, seed: int) -> float:
    """Starts a thread that never ends and is waited for at a polite exit."""
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    return 1.0


def prints(h: Knobs, seed: int, megabytes: int = 50) -> float:
    line = "x" * 1023
    for _ in range(megabytes * 1024):
        print(line)
    print("the last line")
    return 1.0


def allocates(h: Knobs, seed: int, gibibytes: int = 1 << 20) -> float:
    """More memory than there is."""
    return float(len(bytearray(gibibytes << 30)))


def out_of_memory(
    h: Knobs, seed: int, folder: str, times: int = 1, above: float = -1.0, how: str = "python"
) -> float:
    """Runs out of memory the first `times` times that x is above a bound.

    Leaves a mark x-<x>-at-once-<n> at each execution: so many trials ran then.
    """
    x = float(h()["x"])
    running = mark(folder, "running")
    try:
        time.sleep(0.1)
        mark(folder, f"x-{x}-at-once-{len(list(Path(folder).glob('running-*')))}")
        if x > above and len(list(Path(folder).glob("oom-*"))) < times:
            mark(folder, "oom")
            if how == "python":
                raise MemoryError
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 1.0
    finally:
        running.unlink()


def killed(
    h: Knobs, seed: int, folder: str, at: tuple[int, ...] = (3,)
) -> Iterator[dict[str, float]]:
    """SIGKILL at the steps named, each once for each time it is named."""
    for step in range(1, 6):
        done = len(list(Path(folder).glob("killed-*")))
        if done < len(at) and at[done] == step:
            mark(folder, "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"val_loss": 1.0 / step, "progress": step / 5}


def hangs(
    h: Knobs, seed: int, folder: str, times: int = 1, how: str = "sleeps"
) -> Iterator[dict[str, float]]:
    """Hangs after its first step, the first `times` times that it runs; or its process is stopped,
    as by a debugger or a scheduler that takes its place."""
    yield {"val_loss": 1.0, "progress": 0.5}
    if len(list(Path(folder).glob("hung-*"))) < times:
        mark(folder, "hung")
        if how == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
    yield {"val_loss": 0.5, "progress": 1.0}


def steady(h: Knobs, seed: int, folder: str, steps: int = 5) -> Iterator[dict[str, float]]:
    """A step every fifth of a second, while the driver hears it."""
    mark(folder, "begun")
    for step in range(1, steps + 1):
        time.sleep(0.2)
        yield {"val_loss": 1.0 / step, "progress": step / steps}


def mark(folder: str, name: str) -> Path:
    """A new file NAME-<moment> in the folder."""
    path = Path(folder, f"{name}-{time.monotonic_ns()}-{os.getpid()}")
    path.touch()
    return path

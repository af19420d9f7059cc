"""When a user hears that no trial runs, and when a study that is to end no longer waits for one."""

from types import SimpleNamespace
from typing import Any

import pytest

waiting = pytest.importorskip("hpo.engines._ray.waiting")


@pytest.mark.parametrize(
    ("has_place", "seconds", "reason"),
    [(False, 9, None), (False, 11, "nodes"), (True, 59, None), (True, 61, waiting.BUSY)],
)
def test_it_is_told_once_until_a_trial_runs(
    monkeypatch: pytest.MonkeyPatch, has_place: bool, seconds: float, reason: str | None
) -> None:
    now = 100.0
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now))
    cluster: Any = SimpleNamespace(has_place=lambda: has_place)
    since = waiting.Waiting(cluster, now)
    now += seconds
    assert since.is_long == (reason is not None)
    assert [since.reason(), since.reason()] == [reason, None]
    since.over()
    assert not since.is_long and since.reason() is None
    now += seconds
    assert since.reason() == reason

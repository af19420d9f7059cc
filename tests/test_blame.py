"""An exception is told in one way, wherever it arose, and with the user's own line."""

import json
from collections.abc import Callable

import pytest

from hpo.trial import failure
from objectives.training.blame import described, one_line
from objectives.training.options import Training


def broken() -> None:
    raise ValueError("expected 3 channels\nnot 1")


def in_a_library() -> None:
    json.loads("{")


def in_ours() -> None:
    Training(steps=-1)


def silent() -> None:
    raise KeyError


def not_python() -> None:
    compile("x = 1\ndef f(:", "faces.py", "exec")


def caught(function: Callable[[], None]) -> BaseException:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (broken, "ValueError: expected 3 channels  (test_blame.py:14)"),
        (in_a_library, "(test_blame.py:18)"),
        (in_ours, "(test_blame.py:22)"),
        (silent, "KeyError  (test_blame.py:26)"),
        (not_python, "SyntaxError: invalid syntax  (faces.py:2)"),
    ],
)
def test_an_exception_is_one_line_with_the_place_in_the_users_code(
    function: Callable[[], None], said: str
) -> None:
    assert described(caught(function)).endswith(said)


@pytest.mark.parametrize("function", [broken, in_a_library, silent, not_python])
def test_a_failed_trial_says_the_same(function: Callable[[], None]) -> None:
    error = caught(function)
    assert failure(error).message == described(error)


def test_without_code_of_the_users_there_is_no_place() -> None:
    error = ValueError("x")
    assert described(error) == one_line(error) == "ValueError: x"

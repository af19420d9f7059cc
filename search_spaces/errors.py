"""The one error a user sees: what was found, what is allowed, what to do next."""

from __future__ import annotations

from collections.abc import Sequence


class HpoError(Exception):
    """A mistake that can be explained; printed as message and hint, never as a traceback.

    `path` holds the keys that lead to the culprit inside the data that was being read, outermost
    first; `code` is a stable word for programs; `found` and `suggest` are the misspelt word and
    the likely one.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        found: object = None,
        suggest: str | None = None,
        path: Sequence[str | int] = (),
    ) -> None:
        # Only the message goes into args, so that the error survives pickling: the rest
        # travels in __dict__.
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.found = found
        self.suggest = suggest
        self.path = tuple(path)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def under(self, *keys: str | int) -> HpoError:
        """The same error, seen from a level further out: `keys` are put before its path."""
        self.path = (*keys, *self.path)
        return self

"""What a study has behind it, counted as trials end: enough to know when to stop."""

from __future__ import annotations

from dataclasses import dataclass, field

from hpo.ledger import better

HOPELESS = 3


@dataclass
class Tally:
    """Trials asked for and ended, the best score so far and how long ago it was reached."""

    direction: str
    asked: int = 0
    ended: int = 0
    succeeded: int = 0
    since_best: int = 0
    best: float | None = None
    first_failures: list[str] = field(default_factory=list)

    def end(self, state: str, score: float | None, message: str = "") -> bool:
        """Counts a trial that ended; True if it is the best so far."""
        self.ended += 1
        self.since_best += 1
        if state == "failed":
            if len(self.first_failures) < HOPELESS:
                self.first_failures.append(message)
            return False
        self.succeeded += 1
        if state != "complete" or score is None or not better(score, self.best, self.direction):
            return False
        self.best, self.since_best = score, 0
        return True

    @property
    def hopeless(self) -> bool:
        """Whether the first trials all failed in the same way and none has succeeded."""
        failures = self.first_failures
        return not self.succeeded and len(failures) == HOPELESS and len(set(failures)) == 1

    def give_another_chance(self) -> None:
        """Forgets failures that ended a study, for a user who resumes it after mending them."""
        if self.hopeless:
            self.first_failures.clear()

"""Whether the head of a cluster is there. Without it Ray waits for a minute and then ends the
process that it is in, from below: the study has to be out by then."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType

from hpo.engines._ray.address import reach
from hpo.errors import Unavailable, exit_code, render

LOOK_EVERY = 2.0
GONE_AFTER = 10.0  # seconds without an answer: a head that is started anew has that long
OUT_WITHIN = 25.0


class Abandoned(BaseException):
    """Ends Ray Tune's run without any of its tidying, which would ask the head."""


class Head:
    """Watches the head of the cluster at an address, as long as its block runs.

    If the process is not out of the block 25 s after the head was found gone, which Ray's calls to
    it can prevent, it ends with the error's message and exit code; the ledger loses nothing by it.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._left = threading.Event()
        self.gone: Unavailable | None = None

    def __enter__(self) -> Head:
        threading.Thread(target=self._watch, name="hpo-ray-head", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()

    def check(self) -> None:
        """Raises Abandoned if the head is gone."""
        if self.gone is not None:
            raise Abandoned

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._left.wait(LOOK_EVERY):
            before = time.monotonic()
            if self._answers():
                answered = time.monotonic()
            elif before - answered > GONE_AFTER:
                self.gone = Unavailable(
                    f"ray: the head of the cluster at {self._address} is gone",
                    hint="nothing is lost: continue with hpo run --resume once it is up again,"
                    " or with --engine optuna on this machine",
                    code="ray",
                )
                break
        if self.gone is not None and not self._left.wait(OUT_WITHIN):
            print(render(self.gone), file=sys.stderr, flush=True)
            os._exit(exit_code(self.gone))

    def _answers(self) -> bool:
        try:
            reach(self._address, LOOK_EVERY)
        except OSError:
            return False
        return True

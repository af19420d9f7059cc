"""The commands. Each lives in a file of its own, which is loaded when it is called."""

from __future__ import annotations

from hpo.cli._main import cli, main

__all__ = ["cli", "main"]

"""`python -m hpo.cli` is the command `hpo`."""

from __future__ import annotations

from hpo.cli import main

if __name__ == "__main__":
    main()

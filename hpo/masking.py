"""Passwords kept out of everything that is told, logged or tracked."""

from __future__ import annotations

import re


def without_password(text: str) -> str:
    """`text` with what stands for a password in its URL masked, for all that is told or logged."""
    text = re.sub(r"(://[^:/@]*:).*@", r"\1***@", text)  # a password may hold an @ itself
    return re.sub(r"://[^:/@]+@", "://***@", text)  # a token in the place of the user

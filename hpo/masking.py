"""Passwords kept out of everything that is told, logged or tracked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PARAMETER = re.compile(
    r"([?&;](?:password|passwd|pwd|sslpassword|token|secret)=)[^&;\s'\"]+", re.I
)
_SECRET = re.compile("key|token|secret|passw|pwd|credential", re.I)
VARIABLES = "env_vars"  # of workers, as Ray calls them


def without_password(text: str) -> str:
    """`text` with what stands for a password in its URL masked, for all that is told or logged."""
    text = re.sub(r"(://[^:/@\n]*:).*@", r"\1***@", text)  # a password may hold an @ itself
    text = re.sub(r"://[^:/@\n]+@", "://***@", text)  # a token in the place of the user
    return _PARAMETER.sub(r"\1***", text) if "://" in text else text


def masked(data: Any) -> Any:
    """Plain data with the passwords of all addresses in it masked, and the values of environment
    variables whose names say that they are secret."""
    if isinstance(data, str):
        return without_password(data)
    if isinstance(data, Mapping):
        return {
            key: _variables(value) if key == VARIABLES else masked(value)
            for key, value in data.items()
        }
    if isinstance(data, list):
        return [masked(value) for value in data]
    if isinstance(data, tuple):
        return tuple(masked(value) for value in data)
    return data


def _variables(found: Any) -> Any:
    """Environment variables, those that are secret masked."""
    plain = masked(found)
    if not isinstance(plain, Mapping):
        return plain
    return {name: "***" if _SECRET.search(str(name)) else value for name, value in plain.items()}

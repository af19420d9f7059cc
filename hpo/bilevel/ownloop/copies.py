"""Copies and pickles of a model that is being tuned: plain, as it was before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from search_spaces.errors import HpoError

_KEYS = ("__reduce_ex__", "__deepcopy__")


def noted(model: nn.Module) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Takes note of every module as it is. What is given back is to be called when hooks have been
    put on and attributes changed: from then on copies and pickles of the modules are as noted.

    It takes what is to be called before a copy is made, and gives back what ends it.
    """
    before = [(module, dict(vars(module)), _hooks(module)) for module in model.modules()]

    def begin(settle: Callable[[], None]) -> Callable[[], None]:
        for module, values, hooks in before:
            # Both copy and pickle ask the instance first; the class would give all that is in it.
            plain = _Plain(module, values, hooks, settle)
            vars(module)["__reduce_ex__"] = plain
            if hasattr(type(module), "__deepcopy__"):  # as those with a parametrization have
                vars(module)["__deepcopy__"] = plain.deepcopy
        return end

    def end() -> None:
        for module, _, _ in before:
            for key in _KEYS:
                vars(module).pop(key, None)

    return begin


class _Plain:
    """How one module is taken apart: without hooks that came later, with the values of before."""

    def __init__(
        self,
        module: nn.Module,
        before: dict[str, Any],
        hooks: dict[str, set[int]],
        settle: Callable[[], None],
    ) -> None:
        self._module, self._settle = module, settle
        self._ours = {name: keys - hooks[name] for name, keys in _hooks(module).items()}
        now = vars(module)
        self._changed = {
            name: (now[name], value)
            for name, value in before.items()
            if name in now and now[name] is not value
        }

    def __call__(self, protocol: Any) -> Any:
        self._settle()
        found = type(self._module).__reduce_ex__(self._module, protocol)
        if isinstance(found, tuple) and len(found) > 2 and isinstance(found[2], dict):
            return (*found[:2], self._plain(found[2]), *found[3:])
        return found

    def _plain(self, state: dict[str, Any]) -> dict[str, Any]:
        plain = {name: value for name, value in state.items() if name not in _KEYS}
        for name, keys in self._ours.items():
            if keys and name in plain:
                kept = [(key, hook) for key, hook in plain[name].items() if key not in keys]
                plain[name] = type(plain[name])(kept)
        for name, (ours, theirs) in self._changed.items():
            if plain.get(name) is ours:
                plain[name] = theirs
        return plain

    def deepcopy(self, memo: Any) -> Any:
        """The copy that the module's class makes of it, while it is plain itself."""
        self._settle()
        now = dict(vars(self._module))
        try:
            self._become(self._plain(now))
            return type(self._module).__deepcopy__(self._module, memo)  # type: ignore[attr-defined]
        finally:
            self._become(now)

    def _become(self, state: dict[str, Any]) -> None:
        vars(self._module).clear()
        vars(self._module).update(state)

    def __reduce__(self) -> Any:
        raise self._refused()

    def _refused(self) -> HpoError:
        return HpoError(
            f"a {type(self._module).__name__} cannot be copied or saved whole while it is tuned",
            hint="save its state_dict(), or call tuner.close() before",
            code="refused",
        )


def _hooks(module: nn.Module) -> dict[str, set[int]]:
    """The keys of the hooks of a module, by the attribute that holds them."""
    return {
        name: set(value)
        for name, value in vars(module).items()
        if "hooks" in name and isinstance(value, dict)
    }

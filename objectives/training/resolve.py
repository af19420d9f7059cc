"""From what a user writes after `objective:` to the thing that is trained."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from objectives.training import bilevel
from objectives.training.bilevel import is_bilevel
from objectives.training.blame import described
from objectives.training.fields import checked
from objectives.training.task import METHODS, is_task
from search_spaces import plugins
from search_spaces.errors import HpoError

GROUP = "hpo.objectives"
_KEY = "objective_options"


def names() -> list[str]:
    """Every objective that has a plain name: the built-in files and the installed entry points."""
    return sorted({*plugins.names("objectives"), *(point.name for point in _entry_points())})


def resolve(reference: str, options: Mapping[str, Any] | None = None) -> Any:
    """The task, or the black-box callable, that a reference names.

    reference: a built-in name, the name of an entry point in the group hpo.objectives,
    `package.module:attribute`, or `path/to/file.py:attribute`. A class is constructed with the
    options, an instance is used as it is, the parameters of a function after (h, seed) are filled
    from the options. HpoError for everything that goes wrong, also while the user's module is
    imported.
    """
    owner = f"objective {reference}"
    options = dict(options or {})
    found = _found(reference, owner)
    if inspect.isclass(found):
        return _usable(_constructed(found, options, owner), owner)
    if inspect.isroutine(found):
        return _black_box(found, options, owner)
    if options:
        raise HpoError(
            f"{owner} is an object that exists already; it takes no options",
            hint="name its class to have it constructed with options",
            code="unknown-option",
            path=(_KEY,),
        )
    return _usable(found, owner)


def _found(reference: str, owner: str) -> Any:
    place, colon, attribute = reference.rpartition(":")
    if colon and attribute and place:
        return _attribute(_module(place, owner), place, attribute, owner)
    if reference in plugins.names("objectives"):
        return plugins.load("objectives", reference, "OBJECTIVE")
    for point in _entry_points():
        if point.name == reference:
            with _their_import(point.module, owner):
                return point.load()
    if reference.endswith(".py") or "." in reference:
        place = reference.rstrip(":")
        offered = _offers(_module(place, owner))
        raise HpoError(
            f"{owner}: say which object of it, for instance {place}:{[*offered, 'NAME'][0]}",
            hint=f"it defines {', '.join(offered)}" if offered else "",
            code="bad-objective",
            path=("objective",),
        )
    known = names()
    near = plugins.closest(reference, known)
    guess = f", did you mean '{near}'?" if near else ""
    raise HpoError(
        f"unknown objective '{reference}'{guess}",
        hint=f"known: {', '.join(known)}; or give package.module:name, or path/to/file.py:name",
        code="unknown-objective",
        found=reference,
        suggest=near,
        path=("objective",),
    )


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=GROUP))


def _module(place: str, owner: str) -> ModuleType:
    if place.endswith(".py"):
        return _module_from_file(Path(place).expanduser(), owner)
    # The installed command, unlike `python -m`, does not look in the folder it is started in.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    with _their_import(place, owner):
        return importlib.import_module(place)


def _module_from_file(path: Path, owner: str) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        near = plugins.closest(path.name, [p.name for p in path.parent.glob("*.py")])
        guess = f", did you mean '{near}'?" if near else ""
        raise HpoError(
            f"{owner}: no such file: {path}{guess}",
            code="no-such-file",
            suggest=near,
            path=("objective",),
        )
    # A private name: the file may be called like an installed package. With the time of the last
    # change in it, an edited file is read again in a notebook.
    stamp = f"{path}:{path.stat().st_mtime_ns}"
    name = f"_hpo_objective_{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise HpoError(f"{owner}: {path} is not a Python file", path=("objective",))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses in it look their module up
    try:
        with _their_import(path.name, owner):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _their_import(place: str, owner: str) -> Iterator[None]:
    """Turns what goes wrong in a user's module into an error that says where in it."""
    try:
        yield
    except HpoError:
        raise
    except (Exception, SystemExit) as error:
        missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
        if missing and (place == missing or place.startswith(missing + ".")):
            near = plugins.closest(place, [p.stem for p in Path.cwd().glob("*.py")])
            guess = f", did you mean '{near}'?" if near else ""
            raise HpoError(
                f"{owner}: no module named {missing}{guess}",
                hint=f"looked in {Path.cwd()} and in the installed packages",
                code="no-such-module",
                found=missing,
                suggest=near,
                path=("objective",),
            ) from error
        raise HpoError(
            f"{owner}: {place} cannot be imported: {described(error)}",
            hint="the error is in that module, not in hpo",
            code="import-failed",
            path=("objective",),
        ) from error


def _attribute(module: ModuleType, place: str, attribute: str, owner: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            offered = _offers(module)
            near = plugins.closest(attribute, offered)
            defines = f"; it defines {', '.join(offered)}" if offered else "; it defines nothing"
            raise HpoError(
                f"{owner}: module {Path(place).name} has no '{attribute}'{defines}",
                hint=f"did you mean {place}:{near}?" if near else "",
                code="no-such-attribute",
                found=attribute,
                suggest=near,
                path=("objective",),
            )
        found = getattr(found, part)
    return found


def _offers(module: ModuleType) -> list[str]:
    """The public classes, functions and tasks that a module defines itself."""
    return sorted(
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (getattr(thing, "__module__", None) == module.__name__ or _known(thing))
        and (callable(thing) or _known(thing))
    )


def _known(thing: Any) -> bool:
    return is_task(thing) or is_bilevel(thing)


def _constructed(found: type, options: dict[str, Any], owner: str) -> Any:
    try:
        arguments = checked(found, options, owner, _KEY)
    except ValueError:  # a class written in C has no signature: it judges for itself
        arguments = options
    try:
        return found(**arguments)
    except HpoError:
        raise
    except Exception as error:
        raise HpoError(
            f"{owner} cannot be constructed: {described(error)}",
            hint="the error is in its constructor, not in hpo",
            code="objective-failed",
            path=(_KEY,),
        ) from error


def _refuse_half(thing: Any, owner: str) -> None:
    """HpoError if the thing has some of the methods of a bilevel problem but not all."""
    lacks = [name for name in bilevel.METHODS if not callable(getattr(thing, name, None))]
    if lacks and len(lacks) < len(bilevel.METHODS):
        raise HpoError(
            f"{owner} is no bilevel problem: it has no {' and no '.join(lacks)}",
            hint="one has space, init_params(seed), inner_loss(params, h), outer_loss(params, h)",
            code="bad-objective",
            path=("objective",),
        )


def _usable(thing: Any, owner: str) -> Any:
    """The thing, if it is a task or can be called; else HpoError saying what it lacks."""
    if is_task(thing) or is_bilevel(thing):
        return thing
    _refuse_half(thing, owner)
    has = [method for method in METHODS if callable(getattr(thing, method, None))]
    lacks = [method for method in METHODS if method not in has]
    if has and not (callable(thing) and len(has) == 1):
        raise HpoError(
            f"{owner} is no task: it has {' and '.join(has)} but no {' and no '.join(lacks)}",
            hint="a task has model(seed), batches(split, rng), loss(model, batch)",
            code="bad-objective",
            path=("objective",),
        )
    if not callable(thing):
        raise HpoError(
            f"{owner} is neither a task nor a function, but of the kind {type(thing).__name__}",
            hint="a task has model(seed), batches(split, rng), loss(model, batch); "
            "a bilevel problem init_params(seed), inner_loss(params, h), outer_loss(params, h); "
            "a black box is a function of (h, seed)",
            code="bad-objective",
            path=("objective",),
        )
    _check_signature(thing, owner)
    return thing


def _black_box(function: Callable[..., Any], options: dict[str, Any], owner: str) -> Any:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise HpoError(
            f"{owner} is asynchronous",
            hint="write it as an ordinary function or generator",
            code="bad-objective",
            path=("objective",),
        )
    _check_signature(function, owner)
    arguments = checked(function, options, owner, _KEY, skip=2)
    if not arguments:
        return function
    filled = partial(function, **arguments)
    for name in ("space", "name", "note"):
        if hasattr(function, name):
            setattr(filled, name, getattr(function, name))
    return filled


def _check_signature(thing: Callable[..., Any], owner: str) -> None:
    """HpoError unless the thing can be called as thing(h, seed)."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except ValueError:  # written in C
        return
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(positional) < 2 and not takes_any:
        written = ", ".join(p.name for p in parameters)
        raise HpoError(
            f"{owner} takes ({written})",
            hint="a black-box objective is a function of (h, seed): "
            "h(progress) gives {knob: value}, seed is a whole number",
            code="bad-objective",
            path=("objective",),
        )

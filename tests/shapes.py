"""Types and shapes of arguments and results, checked once at each call of a function."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

_typed = beartype(conf=BeartypeConf(violation_type=TypeError))


def check_package(name: str) -> None:
    """Checks the functions and dataclasses of a package that is imported afterwards.

    Without this decorator, jaxtyping's hook checks arguments twice, before and after the call, and
    takes 10 microseconds where no shape is annotated.
    """
    jaxtyping.jaxtyped = lambda typechecker: checked
    jaxtyping.install_import_hook(name, "beartype.beartype")


def checked(of: Any) -> Any:
    """A function, or a class whose `__init__` is checked where it is a dataclass."""
    if not inspect.isclass(of):
        return _checked(of)
    if dataclasses.is_dataclass(of) and "__init__" in vars(of):
        of.__init__ = _checked(of.__init__)
    return of


def _checked(function: Callable) -> Callable:
    hints = [part for h in inspect.get_annotations(function).values() for part in _parts(h)]
    # beartype checks a generator when its first element is due, and refuses names that it does not
    # know, such as those imported for type checkers alone.
    if inspect.isgeneratorfunction(function) or any(isinstance(hint, str) for hint in hints):
        return jaxtyped(function, typechecker=_typed)
    check = _typed(function)
    has_axes = any(isinstance(h, type) and issubclass(h, AbstractArray) for h in hints)
    return jaxtyped(check, typechecker=None) if has_axes else check


def _parts(hint: Any) -> Iterator[Any]:
    """A type hint and all that it is made of."""
    yield hint
    for part in hint if isinstance(hint, list) else get_args(hint):
        yield from _parts(part)

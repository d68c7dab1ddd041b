"""Types and shapes of arguments and results, checked once at each call of a function."""

import dataclasses
import inspect
from collections.abc import Callable
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
    if inspect.isgeneratorfunction(function):  # beartype checks it when the first element is due
        return jaxtyped(function, typechecker=_typed)
    has_axes = any(_has_axes(hint) for hint in inspect.get_annotations(function).values())
    check = _typed(function)
    return jaxtyped(check, typechecker=None) if has_axes else check


def _has_axes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    parts = hint if isinstance(hint, list) else get_args(hint)
    return any(_has_axes(part) for part in parts)

"""The kind of device that a model is traced for, where a model has a kernel for one kind alone."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_planned: ContextVar[str] = ContextVar("planned", default="")


def backend() -> str:
    """Name of JAX's backend, such as cpu or gpu, or the one that is planned for."""
    return _planned.get() or jax.default_backend()


@contextlib.contextmanager
def planned_for(name: str) -> Iterator[None]:
    """Traces models within `with` for a backend whose devices need not be there."""
    token = _planned.set(name)
    try:
        yield
    finally:
        _planned.reset(token)

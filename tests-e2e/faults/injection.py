"""Wraps coroutines of the runtime from outside; refuses when the coroutine to wrap does not exist."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

Coroutine = Callable[..., Awaitable[Any]]


class MissingTargetError(Exception):
    """Raised when a changed runtime lacks the target of a fault, which would otherwise silently have no effect."""


def wrap(owner: type, name: str, make: Callable[[Coroutine], Coroutine], takes: tuple[str, ...] = ()) -> None:
    """Replaces the coroutine `owner.name` by `make(original)`. takes: parameters that it must have."""
    original = owner.__dict__.get(name)
    if not inspect.iscoroutinefunction(original):
        raise MissingTargetError(f"{owner.__module__}.{owner.__name__} has no coroutine {name}")
    missing = [each for each in takes if each not in inspect.signature(original).parameters]
    if missing:
        raise MissingTargetError(f"{owner.__name__}.{name} takes no {', '.join(missing)}")
    setattr(owner, name, functools.wraps(original)(make(original)))


def before(owner: type, name: str, act: Coroutine, takes: tuple[str, ...] = ()) -> None:
    """Calls `act` first, with the same arguments."""

    def make(original: Coroutine) -> Coroutine:
        async def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
            await act(self, *arguments, **named)
            return await original(self, *arguments, **named)

        return wrapped

    wrap(owner, name, make, takes)


def after(owner: type, name: str, act: Coroutine) -> None:
    """Calls `act` with the object and the result, before the caller gets it; `act` may replace the result."""

    def make(original: Coroutine) -> Coroutine:
        async def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
            return await act(self, await original(self, *arguments, **named))

        return wrapped

    wrap(owner, name, make)


def inside(outer: tuple[type, str], inner: tuple[type, str], act: Coroutine) -> None:
    """Calls `act` before `inner`, but only inside a call of `outer`."""
    within: ContextVar[bool] = ContextVar("within", default=False)

    def entering(original: Coroutine) -> Coroutine:
        async def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
            token = within.set(True)
            try:
                return await original(self, *arguments, **named)
            finally:
                within.reset(token)

        return wrapped

    async def only_within(*arguments: Any, **named: Any) -> None:
        if within.get():
            await act(*arguments, **named)

    wrap(*outer, entering)
    before(*inner, only_within)

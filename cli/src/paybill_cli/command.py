"""Makes a command of a function: parameters of type Output and Stack stand for the options that all commands share."""

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import typer

from paybill_cli.context import Stack
from paybill_cli.output import Output

_SHARED = (Output, Stack)


def command_of(function: Callable[..., Any], name: str, *, passes_on: bool = False) -> Any:
    """The typer command that calls `function`; a coroutine function is run to its end."""
    own = inspect.signature(function, eval_str=True).parameters
    shared = {key: own[key].annotation for key in own if own[key].annotation in _SHARED}
    fields = {key: inspect.signature(type_, eval_str=True).parameters for key, type_ in shared.items()}

    def call(**given: Any) -> Any:
        built = {key: type_(**{field: given.pop(field) for field in fields[key]}) for key, type_ in shared.items()}
        outcome = function(**built, **given)
        return _finish(outcome) if inspect.iscoroutine(outcome) else outcome

    parameters = [parameter for key, parameter in own.items() if key not in shared]
    parameters += [parameter for key in sorted(shared, reverse=True) for parameter in fields[key].values()]
    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    call.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]  # inspect looks for it
    call.__doc__ = function.__doc__
    call.__name__ = function.__name__
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    settings = {"ignore_unknown_options": True, "help_option_names": []} if passes_on else {}
    app.command(name, context_settings=settings)(call)
    return typer.main.get_command(app)


def _finish(outcome: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # half of the time that `--help` takes

    return asyncio.run(outcome)

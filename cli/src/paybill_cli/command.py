"""Makes a command of a function; a parameter that is an option group becomes the options of that group."""

import inspect
import shlex
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand
from typing_extensions import override

from paybill_cli.client.contexts import FIELDS
from paybill_cli.client.next_steps import remember_arguments
from paybill_cli.entry import raise_interrupts
from paybill_cli.options import OptionGroup
from paybill_cli.stack_options import remember_stack
from paybill_cli.tree import Leaf


class LazyCommand(TyperCommand):
    """A command that converts only values that are used."""

    @override
    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters."""
        return convert_lazily(super().get_params(ctx))


def load(leaf: Leaf, name: str) -> Any:
    """Imports the command of a leaf."""
    module, _, function = leaf.target.partition(":")
    return command_of(getattr(import_module(module), function), name, passes_on=leaf.passes_on)


def command_of(function: Callable[..., Any], name: str, *, passes_on: bool = False) -> Any:
    """Returns the typer command that calls `function`; a coroutine function is run to its end."""
    own = inspect.signature(function, eval_str=True).parameters
    groups = {key: parameter.annotation for key, parameter in own.items() if _is_group(parameter.annotation)}
    fields = {key: inspect.signature(group, eval_str=True).parameters for key, group in groups.items()}

    def call(typer_context: typer.Context, **values: Any) -> Any:
        raise_interrupts()
        remember_arguments({**values, "command": typer_context.command_path, "line": _line(typer_context)})
        remember_stack(_stack_options(typer_context))
        given = {name for name in values if is_given(typer_context, name)}
        built = {
            key: group.of({field: values.pop(field) for field in fields[key]}, given) for key, group in groups.items()
        }
        outcome = function(**built, **values)
        return _finish(outcome) if inspect.iscoroutine(outcome) else outcome

    parameters = [parameter for key, parameter in own.items() if key not in groups]
    parameters += [parameter for key in reversed(groups) for parameter in fields[key].values()]
    parameters.append(inspect.Parameter("typer_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    call.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]  # inspect reads it
    call.__doc__ = function.__doc__
    call.__name__ = function.__name__
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    settings = {"ignore_unknown_options": True, "help_option_names": []} if passes_on else {}
    app.command(name, cls=LazyCommand, context_settings=settings)(call)
    return typer.main.get_command(app)


def _line(context: typer.Context) -> str:
    """Returns the command line, to be repeated with further options."""
    return shlex.join(["paybill", *context.find_root().obj])


def _stack_options(context: typer.Context) -> dict[str, str]:
    """Returns the options that name the stack; those of the environment and of the current context stay in force."""
    parameters = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    names = (*FIELDS, "context") if "context" in parameters else ("data_dir",)
    return {
        parameters[name]: str(context.params[name])
        for name in names
        if name in parameters and is_given(context, name, "COMMANDLINE")
    }


def convert_lazily(parameters: list[Any]) -> list[Any]:
    """Skips conversions whose result is not used: typer imports pydantic to convert even a missing value."""

    def lazy(parameter: Any) -> Callable[[Any, Any], Any]:
        convert = parameter.process_value
        is_single = parameter.nargs == 1 and not parameter.multiple and not parameter.required

        def process_value(ctx: Any, value: Any) -> Any:
            return value if ctx.resilient_parsing or (value is None and is_single) else convert(ctx, value)

        return process_value

    for parameter in parameters:
        if "process_value" not in vars(parameter):
            parameter.process_value = lazy(parameter)
    return parameters


def is_given(context: typer.Context, name: str, *sources: str) -> bool:
    """Returns whether the parameter `name` is set, by one of `sources`: by default the command line or environment."""
    source = context.get_parameter_source(name)
    return source is not None and (source.name in sources if sources else source.name != "DEFAULT")


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, OptionGroup)


def _finish(outcome: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # importing it doubles the time of `--help`
    import signal

    async def finish() -> Any:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return await outcome

    # Until the event loop handles it: an interrupt inside the constructor of the loop leaves an object whose
    # destructor prints a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return asyncio.run(finish())

"""Collects garbage after each asynchronous test, so that an exception in a finalizer fails the test that caused it.

Without it, the exception is raised at the next collection, and pytest reports it for the test that runs then.
"""

import gc
import inspect
import sys
from collections.abc import Generator

import pytest


def pytest_collection_finish() -> None:
    """Excludes all objects of the imports from later collections: one then takes a few milliseconds."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fails the test when a finalizer of an object that it left raises."""
    yield
    if not inspect.iscoroutinefunction(getattr(item, "function", None)):
        return
    failed: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: failed.append(f"{args.exc_type.__name__}: {args.exc_value}, in {args.object!r}")
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
    if failed:
        pytest.fail("finalizers of objects of this test failed:\n" + "\n".join(failed), pytrace=False)

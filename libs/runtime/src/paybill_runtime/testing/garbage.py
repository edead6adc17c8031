"""Collects garbage after each module of tests, so that an exception in a finalizer fails the module that caused it.

Without it, the exception is raised at the next collection, and pytest reports it for the test that runs then. A
collection after each test would take a quarter of the time of all tests.
"""

import gc
import sys
from collections.abc import Generator

import pytest


def pytest_collection_finish() -> None:
    """Excludes all objects of the imports from later collections."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Fails the last test of a module when a finalizer of an object that the module left raises."""
    yield
    if nextitem is not None and nextitem.path == item.path:
        return
    failed: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: failed.append(f"{args.exc_type.__name__}: {args.exc_value}, in {args.object!r}")
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
    if failed:
        pytest.fail("finalizers of objects of this module failed:\n" + "\n".join(failed), pytrace=False)

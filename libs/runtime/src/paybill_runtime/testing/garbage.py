"""Collects garbage after each module of tests, so that an exception in a finalizer fails the module that caused it.

Without it, the exception is raised at the next collection, and pytest reports it for the test that runs then. A
collection after each test would take a quarter of the time of all tests. Objects that are alive after the collection
are caches and imported modules: later collections leave them out, which makes each of them ten times as fast.
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
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Reports an error of the last test of a module when a finalizer of an object that the module left raises.

    In the teardown of a test it would be too early: the values of its fixtures are alive until its protocol has ended.
    """
    result = yield
    if nextitem is None or nextitem.path != item.path:
        call = pytest.CallInfo.from_call(_collect, "teardown")
        gc.freeze()
        if call.excinfo is not None:
            report = item.ihook.pytest_runtest_makereport(item=item, call=call)
            item.ihook.pytest_runtest_logreport(report=report)
    return result


def _collect() -> None:
    failed: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: failed.append(f"{args.exc_type.__name__}: {args.exc_value}, in {args.object!r}")
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
    if failed:
        pytest.fail("finalizers of objects of this module failed:\n" + "\n".join(failed), pytrace=False)

"""Tests of the signals of handled messages."""

import asyncio

from paybill_runtime.jobs.handled_signals import HandledSignals


async def test_a_job_is_signalled_when_its_own_message_was_handled() -> None:
    signals = HandledSignals()
    with signals.signal("one") as one, signals.signal("two") as two:
        signals.announce(["two", "three"])
        await asyncio.wait_for(two.wait(), 1)

        assert two.is_set()
        assert not one.is_set()


async def test_a_signal_before_the_wait_is_forgotten() -> None:
    signals = HandledSignals()
    with signals.signal("one"):
        signals.announce(["one"])
    with signals.signal("one") as again:
        assert not again.is_set()

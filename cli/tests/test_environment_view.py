"""Environments for people: what changes while one is watched, and when it is stable."""

from typing import Any

import pytest
from paybill_cli.commands.environments import COLUMNS
from paybill_cli.environment_view import change_fields, changes, fields, is_stable, refused_again, row
from paybill_cli.exit_codes import ExitCode

STEPS = [{"action": "create", "address": each, "done": False} for each in ("database.main", "schema.main")]
WAIT = {
    "job": "job-1",
    "kind": "build",
    "step": "schema.main",
    "reason": "refuses: disk full (53100)",
    "tries": 2,
    "next_try": "2026-11-30T08:00:04Z",
}
WAITS = {"reason": "waits", "text": "schema.main waits", "command": "paybill jobs retry job-1"}
BUILDING: dict[str, Any] = {
    "slug": "acme",
    "status": "building",
    "access": "closed",
    "access_wanted": "open",
    "tier": "starter",
    "preset": "pooled",
    "plan": {"hash": "ab", "steps": STEPS},
    "wait": None,
    "unsettled": None,
}
ONE_DONE = BUILDING | {"plan": {"hash": "ab", "steps": [STEPS[0] | {"done": True}, STEPS[1]]}}
READY = BUILDING | {
    "status": "ready",
    "access": "open",
    "plan": {"hash": "ab", "steps": [each | {"done": True} for each in STEPS]},
}


def test_each_step_and_each_state_is_printed_once() -> None:
    assert changes(None, BUILDING) == ["acme is building, access closed, is to become open, starter (pooled)"]
    assert changes(BUILDING, ONE_DONE) == ["create database.main is done, 1 of 2 steps"]
    assert changes(ONE_DONE, READY) == [
        "acme is ready, access open, starter (pooled)",
        "create schema.main is done, 2 of 2 steps",
    ]
    assert changes(READY, READY) == []
    assert changes(None, READY) == ["acme is ready, access open, starter (pooled)"]


def test_steps_of_another_plan_are_printed_anew() -> None:
    next_plan = ONE_DONE | {"status": "changing", "plan": ONE_DONE["plan"] | {"hash": "cd"}}

    assert changes(ONE_DONE, next_plan)[1:] == ["create database.main is done, 1 of 2 steps"]


def test_each_try_of_a_step_that_waits_is_printed_with_the_message_of_the_server() -> None:
    waits = BUILDING | {"wait": WAIT, "unsettled": WAITS}
    again = waits | {"wait": WAIT | {"tries": 3}}

    assert changes(BUILDING, waits) == [
        "waits: schema.main, tried 2 times, next at 2026-11-30 08:00:04 UTC: refuses: disk full (53100)"
    ]
    assert changes(waits, waits) == []
    assert "tried 3 times" in changes(waits, again)[0]
    assert not is_stable(waits)


@pytest.mark.parametrize(
    ("edits", "stable"),
    [
        ({}, False),
        ({"status": "ready", "access": "open"}, True),
        ({"status": "ready"}, False),
        ({"status": "ready", "unsettled": {"reason": "approval_requested"}}, False),
        ({"status": "ready", "access": "open", "unsettled": {"reason": "approval_requested"}}, True),
        ({"status": "failed"}, True),
        ({"status": "registered"}, False),
        ({"status": "registered", "unsettled": {"reason": "refused"}}, True),
        ({"unsettled": {"reason": "paused"}}, True),
        ({"unsettled": {"reason": "waits"}}, False),
        ({"status": "purging", "unsettled": {"reason": "approval_requested"}}, True),
    ],
)
def test_an_environment_is_stable_when_only_a_person_changes_it(edits: dict[str, Any], stable: bool) -> None:
    assert is_stable(BUILDING | edits) is stable


def test_a_tenant_shows_every_field_of_its_pending_change_or_its_refusal() -> None:
    pending = {
        "from_tier": "starter",
        "from_preset": "pooled",
        "tier": "team",
        "preset": "bridge",
        "since": "2026-11-30T08:00:00Z",
        "reason": "the plan team needs team (bridge)",
        "waits_for": "the approval apr_1",
        "plan_hash": "7c",
        "cost": {"before": {"minor": 1200, "currency": "EUR"}, "after": None, "missing": ["database, local"]},
        "approval": "apr_1",
        "approval_status": "requested",
    }

    assert change_fields(pending) == {
        "change": "starter (pooled) -> team (bridge) since 2026-11-30 08:00:00 UTC: the plan team needs team (bridge)",
        "change waits for": "the approval apr_1",
        "change plan": "7c",
        "change cost": "12.00 EUR -> unknown (no price: database, local)",
        "change approval": "apr_1 (requested)",
    }
    assert change_fields({"code": "tier_unknown", "reason": "no blueprint has it", "next": "publish one"}) == {
        "change": "refused, tier_unknown: no blueprint has it"
    }
    assert change_fields(None) == {}


@pytest.mark.parametrize(
    ("code", "is_refused"),
    [("tier_unknown", True), ("change_refused", True), ("tables_not_inspected", False), (None, False)],
)
def test_a_retry_that_is_refused_again_ends_with_the_reason(code: str | None, is_refused: bool) -> None:
    refusal = {"code": code, "reason": "no blueprint has the tier platinum", "next": "publish one"} if code else None

    error = refused_again({"refusal": refusal})

    assert (error is not None) is is_refused
    if error is not None:
        assert (error.code, error.exit_code) == (code, ExitCode.CONFLICT)
        assert error.message == "it is still refused: no blueprint has the tier platinum"
        assert (error.why, error.next) == ("it ends with this: publish one", "paybill blueprint list")


def test_an_environment_shows_its_connections_and_its_isolation() -> None:
    login = {
        "address": "role.main",
        "host": "127.0.0.1",
        "port": 5432,
        "database": "pool_eu_central",
        "schema_name": "product",
        "username": "t_1",
        "secret": None,
    }
    shown = READY | {
        "id": "env_1",
        "region": "eu-central",
        "epoch": 1,
        "blueprint": "standard@4",
        "desired": {"tier": "starter", "preset": "silo", "moved_from": "pooled"},
        "plan": {"hash": "7c", "blueprint": "standard@4", "steps": []},
        "placement": {"compute": "pool", "data": "pool"},
        "cells": ["pool-eu-central-1"],
        "connections": [login, login | {"address": "role.second", "secret": "secret://x/database?v=1"}],
        "resources": [{"address": "bucket.data", "isolation": "pool", "attributes": {"name": "eu-central/t_1"}}],
        **dict.fromkeys(("pending", "refusal", "purge", "failure")),
    }
    found = fields(shown)

    assert found["connection role.main"] == (
        "127.0.0.1:5432 database pool_eu_central schema product user t_1 secret no password yet"
    )
    assert found["connection role.second"].endswith("user t_1 secret secret://x/database?v=1")
    assert (found["isolation"], found["cells"]) == ("compute pool, data pool", "pool-eu-central-1")
    assert found["resource bucket.data"] == "pool eu-central/t_1"
    assert found["desired"] == "starter (silo), moved from pooled"
    assert (found["blueprint"], row(shown)["blueprint"]) == ("standard@4", "standard@4")
    assert "blueprint" in COLUMNS

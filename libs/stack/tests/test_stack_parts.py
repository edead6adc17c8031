"""Tests of the parts of the stack that need no server."""

import json
import socket
import stat
from datetime import UTC, datetime, timedelta

import pytest
from paybill_runtime.http.auth import KeyRing, Role
from paybill_stack.access import BusAccess, DatabaseAccess
from paybill_stack.environment import Addresses, service_environment
from paybill_stack.errors import FailureKind, StackError
from paybill_stack.layout import SERVICES, Layout
from paybill_stack.operator_key import KEY_LIFETIME, ensure_operator_key, temporary_key
from paybill_stack.ports import choose_ports
from paybill_stack.process import error_line
from paybill_stack.servers import ExternalServers

NOW = datetime.now(UTC)


def test_the_operator_key_is_created_once_and_only_its_hash_is_stored(tmp_path):
    path = tmp_path / "api-keys.json"

    raw = ensure_operator_key(path, NOW, replace=False)

    assert raw is not None
    assert KeyRing(path).find(raw, NOW).name == "operator"
    assert raw.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_operator_key(path, NOW, replace=False) is None


def test_a_new_operator_key_revokes_the_old_one(tmp_path):
    path = tmp_path / "api-keys.json"
    old = ensure_operator_key(path, NOW, replace=False)
    ring = KeyRing(path)

    new = ensure_operator_key(path, NOW, replace=True)

    assert ring.find(old, NOW) is None
    assert ring.find(new, NOW).role == "admin"


def test_an_expired_operator_key_is_replaced(tmp_path):
    path = tmp_path / "api-keys.json"
    old = ensure_operator_key(path, NOW, replace=False)

    new = ensure_operator_key(path, NOW + KEY_LIFETIME, replace=False)

    assert new not in {None, old}
    assert len(json.loads(path.read_text())["keys"]) == 1


def test_a_temporary_key_is_revoked_after_its_block_and_other_keys_stay_valid(tmp_path):
    path = tmp_path / "api-keys.json"
    operators = ensure_operator_key(path, NOW, replace=False)
    ring = KeyRing(path)

    with temporary_key(path, "demo", Role.OPERATOR, ("tenant:read",), timedelta(hours=1)) as raw:
        inside = ring.find(raw, datetime.now(UTC))

    assert inside is not None
    assert not inside.allows(Role.OPERATOR, "tenant:write")
    assert ring.find(raw, datetime.now(UTC)) is None
    assert ring.find(operators, NOW) is not None


def test_a_damaged_key_file_is_an_error_with_a_next_step(tmp_path):
    path = tmp_path / "api-keys.json"
    path.write_text("{")

    with pytest.raises(StackError) as raised:
        ensure_operator_key(path, NOW, replace=False)

    assert raised.value.code == "api_keys_unreadable"
    assert raised.value.next


def test_ports_stay_the_same_and_a_port_that_is_taken_is_replaced(tmp_path):
    reported: list[str] = []
    path = tmp_path / "ports.json"
    first = choose_ports(path, None, reported.append)
    with socket.create_server(("127.0.0.1", first["tenant"])):
        second = choose_ports(path, None, reported.append)

    third = choose_ports(path, None, reported.append)

    assert second["tenant"] != first["tenant"]
    assert second | {"tenant": 0} == first | {"tenant": 0}
    assert third == second
    assert len(reported) == 1
    assert f"port {first['tenant']} is taken" in reported[0]


@pytest.mark.parametrize("damaged", ["", "[]", '{"tenant": "x"}', '{"tenant": 80}'])
def test_a_damaged_port_file_only_causes_new_ports(tmp_path, damaged):
    path = tmp_path / "ports.json"
    path.write_text(damaged)

    chosen = choose_ports(path, None, print)

    assert len(set(chosen.values())) == len(chosen)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", "it wrote nothing"),
        ('Traceback (most recent call last):\n  File "x"\nValueError: no\n', "ValueError: no"),
        (
            "x.ProgrammingError: no such column\n[SQL: SELECT]\n(Background on this error)\n",
            "x.ProgrammingError: no such column",
        ),
        ("/bin/python: No module named x\n", "/bin/python: No module named x"),
        ('{"level": "info", "message": "listens"}\nconfiguration: bad\n', "configuration: bad"),
        (
            '{"level": "error", "message": "a loop died", "error": "Traceback\\nKeyError: 1"}\n',
            "a loop died: KeyError: 1",
        ),
        ('{"level": "error", "message": "no"}\n{"level": "info", "message": "shutting down"}\n', "no"),
        ('{"level": "info", "message": "listens"}\n', "listens"),
        ("x" * 5000, "x" * 300),
    ],
)
def test_the_error_line_of_a_log_is_the_one_that_names_the_error(output, expected):
    assert error_line(output) == expected


def test_a_service_gets_paths_of_secrets_and_only_the_inherited_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("PAYBILL_HTTP_HOST", "0.0.0.0")  # noqa: S104  # must not be inherited
    monkeypatch.setenv("PAYBILL_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("PAYBILL_LEFTOVERS", "report")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    layout = Layout(tmp_path)
    layout.credentials.mkdir()
    (layout.credentials / "nats-tenant").write_text("hush-hush")
    addresses = Addresses(
        BusAccess("nats://127.0.0.1:4222", layout.credentials),
        DatabaseAccess("127.0.0.1", 5432, layout.credentials),
        dict.fromkeys([*SERVICES, "stripe-fake"], 8080),
    )

    for name in SERVICES:
        environment = service_environment(name, layout, addresses)

        assert environment["PAYBILL_HTTP_HOST"] == "127.0.0.1"
        assert environment["PAYBILL_DATABASE_URL"] == f"postgresql://{name}@127.0.0.1:5432/{name}"
        assert environment["PAYBILL_NATS_PASSWORD_FILE"] == str(layout.credentials / f"nats-{name}")
        assert environment["PAYBILL_LOG_LEVEL"] == "DEBUG"
        assert environment["PAYBILL_LEFTOVERS"] == "report"
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4318"
        assert not {"PGPASSWORD", "HTTPS_PROXY"} & environment.keys()
        assert "hush-hush" not in environment.values()


@pytest.mark.parametrize(
    "servers",
    [
        ExternalServers(nats_url="nats://127.0.0.1:4222"),
        ExternalServers(database_url="mysql://root@localhost/x"),
        ExternalServers(database_url="postgresql://localhost/x"),
        ExternalServers(database_url="postgresql://root:secret@localhost/x"),
    ],
)
def test_contradicting_options_are_refused_before_anything_starts(servers):
    with pytest.raises(StackError) as raised:
        servers.validate()

    assert raised.value.kind is FailureKind.USAGE

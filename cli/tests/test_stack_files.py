"""The small parts of the stack that need no server."""

import json
import socket
import stat
from datetime import UTC, datetime, timedelta

import pytest
from paybill_cli.errors import CliError
from paybill_runtime.http.auth import KeyRing, Role
from paybill_stack.access import BusAccess, DatabaseAccess
from paybill_stack.environment import Addresses, service_environment
from paybill_stack.layout import SERVICES, Layout
from paybill_stack.operator_key import LIFE, lent_key, operator_key
from paybill_stack.ports import choose_ports
from paybill_stack.process import gist
from paybill_stack.servers import Given

NOW = datetime.now(UTC)


def test_the_operators_key_is_made_once_and_only_its_hash_is_kept(tmp_path):
    path = tmp_path / "api-keys.json"

    raw = operator_key(path, NOW, new=False)

    assert raw is not None
    assert KeyRing(path).find(raw, NOW).name == "operator"
    assert raw.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert operator_key(path, NOW, new=False) is None


def test_a_new_operators_key_ends_the_old_one(tmp_path):
    path = tmp_path / "api-keys.json"
    old = operator_key(path, NOW, new=False)
    ring = KeyRing(path)

    new = operator_key(path, NOW, new=True)

    assert ring.find(old, NOW) is None
    assert ring.find(new, NOW).role == "admin"


def test_an_expired_operators_key_is_replaced(tmp_path):
    path = tmp_path / "api-keys.json"
    old = operator_key(path, NOW, new=False)

    new = operator_key(path, NOW + LIFE, new=False)

    assert new not in {None, old}
    assert len(json.loads(path.read_text())["keys"]) == 1


def test_a_lent_key_ends_with_its_block_and_leaves_the_others(tmp_path):
    path = tmp_path / "api-keys.json"
    operators = operator_key(path, NOW, new=False)
    ring = KeyRing(path)

    with lent_key(path, "demo", Role.OPERATOR, ("tenant:read",), timedelta(hours=1)) as lent:
        inside = ring.find(lent, datetime.now(UTC))

    assert inside is not None
    assert not inside.allows(Role.OPERATOR, "tenant:write")
    assert ring.find(lent, datetime.now(UTC)) is None
    assert ring.find(operators, NOW) is not None


def test_a_damaged_file_of_keys_is_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "api-keys.json"
    path.write_text("{")

    with pytest.raises(CliError) as raised:
        operator_key(path, NOW, new=False)

    assert raised.value.code == "api_keys_unreadable"
    assert raised.value.next


def test_ports_stay_the_same_and_one_that_somebody_took_meanwhile_is_replaced(tmp_path):
    told: list[str] = []
    path = tmp_path / "ports.json"
    first = choose_ports(path, None, told.append)
    with socket.create_server(("127.0.0.1", first["tenant"])):
        second = choose_ports(path, None, told.append)

    third = choose_ports(path, None, told.append)

    assert second["tenant"] != first["tenant"]
    assert second | {"tenant": 0} == first | {"tenant": 0}
    assert third == second
    assert len(told) == 1
    assert f"port {first['tenant']} is taken" in told[0]


@pytest.mark.parametrize("damaged", ["", "[]", '{"tenant": "x"}', '{"tenant": 80}'])
def test_a_damaged_file_of_ports_only_costs_the_ports(tmp_path, damaged):
    path = tmp_path / "ports.json"
    path.write_text(damaged)

    chosen = choose_ports(path, None, print)

    assert len(set(chosen.values())) == len(chosen)


@pytest.mark.parametrize(
    ("output", "said"),
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
def test_the_gist_of_a_log_is_the_line_that_tells_most(output, said):
    assert gist(output) == said


def test_a_service_gets_paths_of_secrets_and_nothing_else_of_our_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("PAYBILL_HTTP_HOST", "0.0.0.0")  # noqa: S104  # what must not arrive
    monkeypatch.setenv("PAYBILL_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    layout = Layout(tmp_path)
    layout.credentials.mkdir()
    (layout.credentials / "nats-tenant").write_text("hush-hush")
    at = Addresses(
        BusAccess("nats://127.0.0.1:4222", layout.credentials),
        DatabaseAccess("127.0.0.1", 5432, layout.credentials),
        dict.fromkeys([*SERVICES, "stripe-fake"], 8080),
    )

    for name in SERVICES:
        environment = service_environment(name, layout, at)

        assert environment["PAYBILL_HTTP_HOST"] == "127.0.0.1"
        assert environment["PAYBILL_DATABASE_URL"] == f"postgresql://{name}@127.0.0.1:5432/{name}"
        assert environment["PAYBILL_NATS_PASSWORD_FILE"] == str(layout.credentials / f"nats-{name}")
        assert environment["PAYBILL_LOG_LEVEL"] == "DEBUG"
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4318"
        assert not {"PGPASSWORD", "HTTPS_PROXY"} & environment.keys()
        assert "hush-hush" not in environment.values()


@pytest.mark.parametrize(
    "given",
    [
        Given(nats_url="nats://127.0.0.1:4222"),
        Given(database_url="mysql://root@localhost/x"),
        Given(database_url="postgresql://localhost/x"),
        Given(database_url="postgresql://root:secret@localhost/x"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_starts(given):
    with pytest.raises(CliError) as raised:
        given.check()

    assert raised.value.exit_code == 2

"""The store: transactions are atomic, in memory and on disk."""

import json

import pytest
from paybill_stripe_fake.errors import CardDeclinedError, InvalidRequestError
from paybill_stripe_fake.store import StateFileError, Store


def put(store, kind, *identifiers):
    with store.transaction():
        for identifier in identifiers:
            store.put(kind, identifier, {"id": identifier})


def ids(store, kind):
    return [found["id"] for found in store.oldest_first(kind)]


def test_a_refused_transaction_changes_nothing():
    store = Store()
    put(store, "customer", "a", "b")

    def refused():
        with store.transaction():
            store.put("customer", "c", {"id": "c"})
            store.put("customer", "a", {"id": "changed"})
            raise InvalidRequestError("no")

    with pytest.raises(InvalidRequestError):
        refused()

    assert store.oldest_first("customer") == [{"id": "a"}, {"id": "b"}]


def test_a_declined_card_is_recorded_when_the_error_sets_keep():
    store = Store()

    def declined():
        with store.transaction():
            store.put("invoice", "a", {"id": "a"})
            raise CardDeclinedError(None, keep=True)

    with pytest.raises(CardDeclinedError):
        declined()

    assert ids(store, "invoice") == ["a"]


def test_a_change_outside_a_transaction_is_a_bug():
    with pytest.raises(RuntimeError):
        Store().put("customer", "a", {})


def test_committed_changes_are_present_in_order_after_a_restart(tmp_path):
    store = Store(tmp_path / "state")
    put(store, "customer", "b", "a", "c")
    with store.transaction():
        store.delete("customer", "a")
        store.put("customer", "b", {"id": "b", "name": "Ünï"})
    store.close()

    again = Store(tmp_path / "state")

    assert again.oldest_first("customer") == [{"id": "b", "name": "Ünï"}, {"id": "c"}]
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    again.close()


def test_a_line_torn_by_a_kill_is_ignored(tmp_path):
    path = tmp_path / "state"
    store = Store(path)
    put(store, "customer", "a")
    put(store, "customer", "b")
    store.close()
    path.write_bytes(path.read_bytes()[:-3])

    again = Store(path)

    assert ids(again, "customer") == ["a"]
    put(again, "customer", "c")
    again.close()
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    "content", ["nonsense\n", '{"format":"other"}\n', '{"format":"paybill-stripe-fake","version":1}\n{}}\n']
)
def test_a_file_that_is_not_a_state_file_is_refused_and_unchanged(tmp_path, content):
    path = tmp_path / "state"
    path.write_text(content)

    with pytest.raises(StateFileError):
        Store(path)
    assert path.read_text() == content


def test_two_processes_cannot_share_a_state_file(tmp_path):
    first = Store(tmp_path / "state")

    with pytest.raises(StateFileError, match="in use"):
        Store(tmp_path / "state")
    first.close()
    Store(tmp_path / "state").close()


def test_a_read_only_folder_is_one_clear_line(tmp_path):
    with pytest.raises(StateFileError, match="writable folder"):
        Store(tmp_path / "absent" / "state")

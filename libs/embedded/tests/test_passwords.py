"""Passwords of the embedded servers."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from paybill_embedded.credentials import password, password_file

WRITERS = 4


def test_all_that_create_a_password_at_the_same_time_get_the_one_that_is_stored(tmp_path):
    barrier = Barrier(WRITERS)

    def create(name):
        barrier.wait()
        return password(tmp_path, name)

    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(20):
            name = f"nats-crm{number}"
            created = list(pool.map(create, [name] * WRITERS))

            assert set(created) == {password_file(tmp_path, name).read_text().strip()}


def test_the_steward_s_password_is_apart_and_an_earlier_one_gets_there(tmp_path):
    earlier = password_file(tmp_path, "nats-tenant").with_name("nats-steward")
    password(tmp_path, "nats-tenant")
    earlier.write_text("secret\n")

    assert password(tmp_path, "nats-steward") == "secret"

    path = password_file(tmp_path, "nats-steward")
    assert path.parent != earlier.parent
    assert (path.read_text(), path.parent.stat().st_mode & 0o777) == ("secret\n", 0o700)
    assert not earlier.exists()

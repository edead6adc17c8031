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

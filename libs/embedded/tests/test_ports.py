"""Ports: free ones, and ones that other processes hold."""

import socket

import pytest
from paybill_embedded.errors import EmbeddedError
from paybill_embedded.ports import free_port, require_free


def test_no_port_is_handed_out_twice():
    ports = [free_port() for _ in range(200)]

    assert len(set(ports)) == len(ports)


def test_a_free_port_is_reserved_from_other_programs_but_open_to_a_server():
    port = free_port()

    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    socket.create_server(("127.0.0.1", port)).close()


def test_the_refusal_names_an_occupied_port():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(
            EmbeddedError, match=r"cannot listen on 127\.0\.0\.1:\d+: the port is taken; stop the"
        ) as refused,
    ):
        require_free(listener.getsockname()[1], "NATS")

    assert refused.value.code == "port_taken"

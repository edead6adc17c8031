"""Servers of other versions than the embedded ones: PostgreSQL of a wheel, and PostgreSQL and NATS in containers."""

import asyncio
import io
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import docker
import pytest
from docker.errors import APIError, ImageNotFound
from paybill_embedded import NatsServer, free_port
from paybill_embedded.credentials import password, password_file, write_private
from paybill_embedded.databases import databases_script
from paybill_embedded.nats import DEFAULT_PUBLISHERS, _binary
from paybill_embedded.postgres import SUPERUSER, _binaries
from paybill_embedded.unprivileged import set_owner, unprivileged
from paybill_embedded.users import IDENTITIES, SERVICES, render_conf
from paybill_runtime.messaging.streams import connect, ensure
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

testcontainers_config.ryuk_disabled = True  # its image may be out of reach, and every container ends with its block
STARTS_WITHIN_S = 60


class OtherPostgres:
    """Address and passwords of a PostgreSQL server, as an embedded `PostgresServer` has them."""

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self._folder = folder
        self._host, self._port = host, port

    def url(self, role: str, database: str | None = None) -> str:
        """Returns the address for `role`, without its password."""
        return f"postgresql://{role}@{self._host}:{self._port}/{database or role}"

    def password(self, role: str) -> str:
        """Returns the password of `role`."""
        return password(self._folder, f"pg-{role}")

    def password_file(self, role: str) -> Path:
        """Returns the file with the password of `role`."""
        return password_file(self._folder, f"pg-{role}")

    def create_databases(self) -> None:
        """Creates the role and the database of each service, once the server accepts connections."""
        asyncio.run(self._wait_ready())
        subprocess.run(
            [
                _binaries() / "psql",
                "--no-psqlrc",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                f"--dbname={self.url(SUPERUSER)}",
            ],
            input=databases_script(SERVICES, self.password, iterations=1),
            env={"PGPASSWORD": self.password(SUPERUSER)},
            text=True,
            check=True,
        )

    async def _wait_ready(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                connection = await asyncpg.connect(self.url(SUPERUSER), password=self.password(SUPERUSER))
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                await asyncio.sleep(0.1)
            else:
                await connection.close()
                return


@contextmanager
def postgres_of_wheel(folder: Path, package: str, programs: str) -> Iterator[OtherPostgres]:
    """Runs the server in the folder `programs` of an installed package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    binaries = Path(spec.origin).parent / programs
    port = free_port()
    server = OtherPostgres(folder, "127.0.0.1", port)
    server.password(SUPERUSER)
    user = unprivileged(binaries / "postgres", folder)
    home = folder / "postgres"
    home.mkdir(mode=0o700)
    set_owner(user.uid, home)
    initdb = [binaries / "initdb", "--pgdata", home, "--username", SUPERUSER, "--auth=scram-sha-256", "--no-sync"]
    initdb += ["--pwfile", server.password_file(SUPERUSER), "--encoding=UTF8", "--locale=C"]
    subprocess.run([*user.prefix, *initdb], check=True, stdout=subprocess.DEVNULL)
    with (home / "postgresql.conf").open("a") as configuration:
        configuration.write(f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n")
        configuration.write("fsync = off\nlog_min_messages = fatal\n")
    process = subprocess.Popen([*user.prefix, binaries / "postgres", "-D", home])
    try:
        yield server
    finally:
        process.terminate()
        process.wait()


@contextmanager
def postgres_in_container(folder: Path, image: str) -> Iterator[OtherPostgres]:
    """Runs an official image; skips the test when there is no engine or no image."""
    if reason := _pull(image):
        pytest.skip(reason)
    secret = password(folder, f"pg-{SUPERUSER}")
    container = DockerContainer(image).with_env("POSTGRES_PASSWORD", secret).with_exposed_ports(5432)
    with container.with_env("POSTGRES_INITDB_ARGS", "--auth-host=scram-sha-256 --locale=C") as running:
        yield OtherPostgres(folder, running.get_container_host_ip(), int(running.get_exposed_port(5432)))


class OtherNats:
    """Address and passwords of a NATS server, as an embedded `NatsServer` has them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = ""

    def password(self, user: str) -> str:
        """Returns the password of a user."""
        return password(self._folder, f"nats-{user}")

    def password_file(self, user: str) -> Path:
        """Returns the file with the password of a user."""
        return password_file(self._folder, f"nats-{user}")


def create_streams(server: OtherNats | NatsServer) -> None:
    """Creates the streams, as the steward."""

    async def create() -> None:
        client = await connect(server.url, "steward", server.password("steward"))
        await ensure(client)
        await client.close()

    asyncio.run(create())


@contextmanager
def nats_in_container(folder: Path, image: str) -> Iterator[OtherNats]:
    """Runs an official image, or without a registry our own nats-server in an image of this one file."""
    if _pull(image):
        image = _import_nats()
    server = OtherNats(folder)
    text = render_conf(
        {user: server.password(user) for user in (*IDENTITIES, *DEFAULT_PUBLISHERS)},
        listen="0.0.0.0:4222",
        store_dir="/data",
        server_name="paybill",
    )
    (folder / "mounted").mkdir()
    write_private(folder / "mounted" / "nats.conf", text)
    container = DockerContainer(image).with_command("--config /mounted/nats.conf")
    container.with_volume_mapping(str(folder / "mounted"), "/mounted").with_exposed_ports(4222)
    with container as running:
        server.url = f"nats://{running.get_container_host_ip()}:{running.get_exposed_port(4222)}"
        yield server


@contextmanager
def _engine() -> Iterator[docker.DockerClient]:
    """Connects to the container engine; skips the test with the reason when there is none."""
    address = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    if address.scheme == "unix":  # the library would leave a socket open when it cannot connect
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(address.path)
            except OSError as error:
                pytest.skip(f"no container engine answers at {address.path}: {error.strerror}")
    with closing(docker.from_env()) as client:
        yield client


def _pull(image: str) -> str:
    """Pulls an image that is not here; returns the reason why it cannot be pulled, or an empty text."""
    with _engine() as client:
        try:
            client.images.get(image)
        except ImageNotFound:
            try:
                client.images.pull(image)
            except APIError as error:
                return f"the image {image} is not here and cannot be pulled: {error.explanation}"
    return ""


def _import_nats() -> str:
    """Imports the static nats-server of this environment as the only file of an image; returns its name."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(Path(_binary()).resolve(), arcname="nats-server")
    with _engine() as client:
        client.api.import_image_from_data(
            archive.getvalue(), repository="paybill-test/nats", tag="local", changes=['ENTRYPOINT ["/nats-server"]']
        )
    return "paybill-test/nats:local"

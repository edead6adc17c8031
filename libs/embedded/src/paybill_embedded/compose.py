"""Credentials for the containers of docker-compose.yml: each part gets a folder with its own secrets and no others."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from paybill_embedded.credentials import password, password_file, private_dir, write_private
from paybill_embedded.databases import DRIVER_ROLE, databases_script
from paybill_embedded.errors import EmbeddedError
from paybill_embedded.nats import DEFAULT_PUBLISHERS
from paybill_embedded.postgres import SUPERUSER
from paybill_embedded.users import IDENTITIES, SERVICES, Cluster, render_conf

NODES = ("nats-1", "nats-2", "nats-3")
_OPERATOR_KEY_LIFE = timedelta(days=365)
_READERS = (*SERVICES, "operator")
_STRIPE = ("stripe-api-key", "stripe-webhook-secrets")


@dataclass(frozen=True, slots=True)
class Owners:
    """User ids that the folders are given to: `postgres` its own, `paybill` all others. None leaves them with us."""

    paybill: int | None = None
    postgres: int | None = None


def write_credentials(out: Path, given: Path | None, owners: Owners) -> None:
    """Write the folders below `out`; secrets that are there already stay, so that running it again changes nothing.

    given: folder with `stripe-api-key` and `stripe-webhook-secrets` (one a line) of a Stripe account; None makes up
    both, for the stand-in. Raises EmbeddedError: stripe_secrets_missing.
    """
    vault = private_dir(out / "vault")

    def secret(name: str) -> str:
        return password(vault, name)

    folders: dict[str, dict[str, str]] = {
        "nats": {f"{node}.conf": _node_conf(node, secret) for node in NODES},
        "postgres": {
            "password": secret(_database(SUPERUSER)),
            "pgpass": f"*:*:*:{SUPERUSER}:{secret(_database(SUPERUSER))}",
            "databases.sql": databases_script(SERVICES, lambda role: secret(_database(role))),
        },
        "steward": {"nats-password": secret("nats-steward")},
        "operator": {"nats-password": secret("nats-operator"), "api-key": f"pbk_operator_{secret('api-key')}"},
        **{publisher: {"nats-password": secret(f"nats-{publisher}")} for publisher in DEFAULT_PUBLISHERS},
        **{service: _service(service, secret) for service in SERVICES},
    }
    born = datetime.fromtimestamp(password_file(vault, "api-key").stat().st_mtime, tz=UTC)
    for service in SERVICES:
        folders[service]["api-keys.json"] = _api_keys(secret("api-key"), born + _OPERATOR_KEY_LIFE)
    stripe = _given_stripe(given) if given else _made_up_stripe(secret)
    folders["billing"] |= stripe | {
        "publishers.json": json.dumps({name: {"tenants": ["*"]} for name in DEFAULT_PUBLISHERS})
    }
    folders["provisioner"]["local-database-password"] = secret(_database(DRIVER_ROLE))
    folders["stripe-fake"] = _made_up_stripe(secret)

    for folder, files in folders.items():
        private_dir(out / folder)
        for file, text in files.items():
            write_private(out / folder / file, text + "\n")
    _write_identities(vault, out)
    for folder in folders:
        give(out / folder, owners.postgres if folder == "postgres" else owners.paybill)


def give(folder: Path, owner: int | None) -> None:
    """Make `folder` and all in it the property of user and group `owner`."""
    if owner is None:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)


def _service(service: str, secret: Callable[[str], str]) -> dict[str, str]:
    return {"nats-password": secret(f"nats-{service}"), "database-password": secret(_database(service))}


def _database(role: str) -> str:
    return f"pg-{role.replace('_', '-')}"


def _node_conf(node: str, secret: Callable[[str], str]) -> str:
    peers = tuple(f"nats-route://cluster:{secret('nats-cluster')}@{peer}:6222" for peer in NODES if peer != node)
    return render_conf(
        {user: secret(f"nats-{user}") for user in (*IDENTITIES, *DEFAULT_PUBLISHERS)},
        listen="0.0.0.0:4222",
        store_dir="/data",
        server_name=node,
        monitor="127.0.0.1:8222",
        cluster=Cluster("paybill", "0.0.0.0:6222", peers, "cluster", secret("nats-cluster")),
    )


def _api_keys(secret_part: str, expires_at: datetime) -> str:
    key = {
        "id": "operator",
        "name": "operator",
        "sha256": hashlib.sha256(secret_part.encode()).hexdigest(),
        "role": "admin",
        "scopes": ["*"],
        "expires_at": expires_at.isoformat(timespec="seconds"),
    }
    return json.dumps({"keys": [key]}, indent=2)


def _given_stripe(given: Path) -> dict[str, str]:
    try:
        return {file: (given / file).read_text(encoding="ascii").strip() for file in _STRIPE}
    except OSError as error:
        raise EmbeddedError(
            "stripe_secrets_missing",
            f"Stripe's secrets cannot be read: {error.filename}: {error.strerror}",
            "put them there, or start the stand-in with: docker compose --env-file deploy/dev.env up",
        ) from error


def _made_up_stripe(secret: Callable[[str], str]) -> dict[str, str]:
    return {
        "stripe-api-key": f"sk_test_{secret('stripe-api-key')}",
        "stripe-webhook-secrets": f"whsec_{secret('stripe-webhook')}",
    }


def _write_identities(vault: Path, out: Path) -> None:
    """A key pair (32 raw bytes each) for each reader of secrets: it gets its own private half and all public ones."""
    pairs = {name: _key_pair(vault / f"{name}.key") for name in _READERS}
    for name in _READERS:
        folder = private_dir(out / name / "identity")
        _write_key(folder / f"{name}.key", pairs[name].private_bytes_raw())
        for other, pair in pairs.items():
            _write_key(folder / f"{other}.pub", pair.public_key().public_bytes_raw())


def _key_pair(kept: Path) -> X25519PrivateKey:
    if not kept.exists():
        _write_key(kept, X25519PrivateKey.generate().private_bytes_raw())
    return X25519PrivateKey.from_private_bytes(kept.read_bytes())


def _write_key(path: Path, key: bytes) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.touch(mode=0o600)
    draft.write_bytes(key)
    draft.replace(path)

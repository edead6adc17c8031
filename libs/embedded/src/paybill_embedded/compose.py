"""Credentials for the containers of docker-compose.yml: each container gets a folder with only its own secrets."""

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
from paybill_embedded.signing_keys import make_root, make_signing_key
from paybill_embedded.users import IDENTITIES, SERVICES, Cluster, render_conf

NODES = ("nats-1", "nats-2", "nats-3")
_OPERATOR_KEY_LIFE = timedelta(days=365)
_SECRET_OWNERS = (*SERVICES, "operator")
_STRIPE = ("stripe-api-key", "stripe-webhook-secrets")


@dataclass(frozen=True, slots=True)
class Owners:
    """Owners of the folders: `postgres` of its own, `paybill` of all others. None leaves the current owner."""

    paybill: int | None = None
    postgres: int | None = None


def write_credentials(out: Path, stripe_secrets: Path | None, owners: Owners) -> None:
    """Writes the folders below `out`; existing secrets are kept, so that a second run changes nothing.

    stripe_secrets: folder with `stripe-api-key` and `stripe-webhook-secrets` (one a line) of a Stripe account; None
    generates both, for the Stripe fake. Raises EmbeddedError: stripe_secrets_missing.
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
    stripe = _stripe_of_account(stripe_secrets) if stripe_secrets else _generated_stripe(secret)
    folders["billing"] |= stripe | {
        "publishers.json": json.dumps({name: {"tenants": ["*"]} for name in DEFAULT_PUBLISHERS})
    }
    folders["provisioner"]["local-database-password"] = secret(_database(DRIVER_ROLE))
    folders["stripe-fake"] = _generated_stripe(secret)

    for folder, files in folders.items():
        private_dir(out / folder)
        for file, text in files.items():
            write_private(out / folder / file, text + "\n")
    _write_identities(vault, out)
    _write_signing_keys(vault, out)
    for folder in folders:
        change_owner(out / folder, owners.postgres if folder == "postgres" else owners.paybill)


def change_owner(folder: Path, owner: int | None) -> None:
    """Changes owner and group of `folder` and everything in it to `owner`."""
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


def _stripe_of_account(stripe_secrets: Path) -> dict[str, str]:
    try:
        return {file: (stripe_secrets / file).read_text(encoding="ascii").strip() for file in _STRIPE}
    except OSError as error:
        raise EmbeddedError(
            "stripe_secrets_missing",
            f"Stripe's secrets cannot be read: {error.filename}: {error.strerror}",
            "put them there, or start the Stripe fake with: docker compose --env-file deploy/dev.env up",
        ) from error


def _generated_stripe(secret: Callable[[str], str]) -> dict[str, str]:
    return {
        "stripe-api-key": f"sk_test_{secret('stripe-api-key')}",
        "stripe-webhook-secrets": f"whsec_{secret('stripe-webhook')}",
    }


def _write_identities(vault: Path, out: Path) -> None:
    """Writes key pairs (32 raw bytes each): each secret owner gets its own private key and all public ones."""
    pairs = {name: _key_pair(vault / f"{name}.key") for name in _SECRET_OWNERS}
    for name in _SECRET_OWNERS:
        folder = private_dir(out / name / "identity")
        _write_key(folder / f"{name}.key", pairs[name].private_bytes_raw())
        for other, pair in pairs.items():
            _write_key(folder / f"{other}.pub", pair.public_key().public_bytes_raw())


def _write_signing_keys(vault: Path, out: Path) -> None:
    """Writes each service's signing key beside its identity; the root key that certifies them stays in the vault."""
    root = make_root(vault)
    for service in SERVICES:
        make_signing_key(out / service / "identity", service, root)


def _key_pair(kept: Path) -> X25519PrivateKey:
    if not kept.exists():
        _write_key(kept, X25519PrivateKey.generate().private_bytes_raw())
    return X25519PrivateKey.from_private_bytes(kept.read_bytes())


def _write_key(path: Path, key: bytes) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.touch(mode=0o600)
    draft.write_bytes(key)
    draft.replace(path)

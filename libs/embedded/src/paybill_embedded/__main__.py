"""Runs `python -m paybill_embedded compose --out DIR`: the job of docker-compose.yml that writes all credentials."""

import argparse
import sys
from pathlib import Path

from paybill_embedded.compose import Owners, change_owner, write_credentials
from paybill_embedded.errors import EmbeddedError


def main() -> int:
    """Returns the exit code: 0 when everything is written, 1 when a person must act; the message names the step."""
    parser = argparse.ArgumentParser(prog="python -m paybill_embedded", description=__doc__)
    compose = parser.add_subparsers(required=True).add_parser(
        "compose", help="write the credentials of every container"
    )
    compose.add_argument("--out", type=Path, required=True, help="output folder, with one folder per container")
    compose.add_argument(
        "--given", dest="stripe_secrets", type=Path, help="folder with the secrets of a Stripe account"
    )
    compose.add_argument(
        "--stand-in", dest="stripe_fake", action="store_true", help="generate Stripe's secrets, for the Stripe fake"
    )
    compose.add_argument("--owner", type=int, help="user id of the services and of NATS")
    compose.add_argument("--postgres-owner", type=int, help="user id of PostgreSQL")
    compose.add_argument(
        "--give",
        dest="folders",
        type=Path,
        action="append",
        default=[],
        help="another folder whose owner is set to --owner",
    )
    options = parser.parse_args()
    if not options.stripe_fake and not options.stripe_secrets:
        parser.error("pass --given DIR for a Stripe account, or --stand-in for the Stripe fake")
    try:
        stripe_secrets = None if options.stripe_fake else options.stripe_secrets
        write_credentials(options.out, stripe_secrets, Owners(options.owner, options.postgres_owner))
    except EmbeddedError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    for folder in options.folders:
        change_owner(folder, options.owner)
    print(f"credentials are in {options.out}; the operator's key is in operator/api-key")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m paybill_embedded compose --out DIR`: the one-shot job of docker-compose.yml that makes all credentials."""

import argparse
import sys
from pathlib import Path

from paybill_embedded.compose import Owners, give, write_credentials
from paybill_embedded.errors import EmbeddedError


def main() -> int:
    """The exit code: 0 when all is written, 1 when a person has to do something, which is then printed."""
    parser = argparse.ArgumentParser(prog="python -m paybill_embedded", description=__doc__)
    compose = parser.add_subparsers(required=True).add_parser(
        "compose", help="write the credentials of every container"
    )
    compose.add_argument("--out", type=Path, required=True, help="folder that gets a folder for each container")
    compose.add_argument("--given", type=Path, help="folder with the secrets of a Stripe account")
    compose.add_argument("--stand-in", action="store_true", help="make Stripe's secrets up, for the stand-in")
    compose.add_argument("--owner", type=int, help="user id of the services and of NATS")
    compose.add_argument("--postgres-owner", type=int, help="user id of PostgreSQL")
    compose.add_argument(
        "--give", type=Path, action="append", default=[], help="another folder that the owner shall have"
    )
    options = parser.parse_args()
    if not options.stand_in and not options.given:
        parser.error("say --given DIR for a Stripe account, or --stand-in")
    try:
        given = None if options.stand_in else options.given
        write_credentials(options.out, given, Owners(options.owner, options.postgres_owner))
    except EmbeddedError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    for folder in options.give:
        give(folder, options.owner)
    print(f"credentials are in {options.out}; the operator's key is in operator/api-key")
    return 0


if __name__ == "__main__":
    sys.exit(main())

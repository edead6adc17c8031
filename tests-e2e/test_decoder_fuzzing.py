"""Mutated samples of everything that is read from outside: each decoder accepts them or raises its documented error.

PAYBILL_TEST_FUZZ sets the number of executions, and PAYBILL_TEST_FUZZ_SEED repeats a run.
"""

import gzip
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import stripe
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paybill_billing.consumer import HANDLERS
from paybill_billing.providers.port import DeliveryRefusedError
from paybill_billing.providers.stripe.inbound import StripeInbound
from paybill_contracts.envelope import IntakeEvent, intake_headers, intake_subject, read_fact, read_intake_event
from paybill_contracts.errors import DomainError
from paybill_contracts.event import UnknownEventError, canonical, decode, encode
from paybill_contracts.signatures import (
    SIGNATURE_HEADER,
    MalformedSignatureError,
    key_id,
    leaf_of,
    read_signature,
    sign,
)
from paybill_contracts.signing_keys import KnownKeys
from paybill_contracts.usage import Usage
from paybill_definitions.blueprints_file import read_blueprint
from paybill_definitions.cedar_text import CedarError, OutsideSubsetError, split
from paybill_definitions.plans_file import read_plans
from paybill_definitions.policy_file import read_policy
from paybill_definitions.price_book_file import read_price_book
from paybill_licence import (
    Licence,
    LicenceRefusedError,
    Revocations,
    assemble,
    base64url,
    jwk,
    read_keys,
    signing_input,
    verify_licence,
    verify_revocations,
)
from paybill_licence import key_id as licence_key_id
from paybill_licence.claims import LimitFeature, PlanRef
from paybill_runtime.decisions.outbox_headers import FactColumns, compact, complete
from paybill_runtime.http.strict_json import JsonError, read_json
from paybill_runtime.messaging.message import parse_stored
from paybill_runtime.messaging.streams import EVENTS, INTAKE
from paybill_runtime.telemetry import child
from paybill_runtime.testing.signing import signing_identity

ROOT = Path(__file__).parents[1]
EXECUTIONS = int(os.environ.get("PAYBILL_TEST_FUZZ", "20000"))
SEED = int(os.environ.get("PAYBILL_TEST_FUZZ_SEED", random.SystemRandom().randrange(2**32)))
LONGEST_S = 2.0
"""Longest time of one execution on a busy machine; an exponential one takes minutes."""
SECRET = "whsec_fuzzing"
NOW = datetime.now(UTC).replace(microsecond=0)
GRANTS = [
    """permit(principal in Role::"agent", action == Action::"read", resource is orders)
when { resource.open && !context.late };
@id("two")
forbid(principal, action, resource) unless { resource.amount <= 10 };
"""
]
PIECES = (
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xae", b'"', b"\\u0000", b"\\ud800", b"{", b"}", b"]", b",", b":"),
    *(b"[" * 2000, b'{"a":' * 2000, b"NaN", b"-0", b"1e999", b"9" * 400, b"null", b"true", b"&a [*a,*a]", b"<<: *a"),
    *(b"!!python/none", b"\n", b"\t", b"%s", b"' OR 1=1 --", b"..", b"*", b">", b" " * 5000, b"a" * 70_000),
    *("\u017f".encode(), "\U0001f600".encode()),
)
"""Bytes that have broken decoders of others."""


@dataclass(frozen=True)
class Decoder:
    """A decoder with samples that it accepts. run: receives a changed sample. errors: what it may raise then.

    share: executions for one of the others; files of operators take milliseconds.
    """

    samples: Sequence[Any]
    run: Callable[[Any], object]
    errors: tuple[type[Exception], ...]
    share: float = 1.0


class Mutator:
    """Changes samples, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # it has to be repeatable

    def of(self, samples: Sequence[Any]) -> Any:
        """Returns a changed sample: bytes, a text, or a tuple or mapping of which one value is changed."""
        return self._changed(self._random.choice(samples), samples)

    def _changed(self, sample: Any, samples: Sequence[Any]) -> Any:
        match sample:
            case bytes():
                return self._bytes(sample, samples)
            case str():
                return self._bytes(sample.encode("utf-8", "surrogatepass"), ()).decode("utf-8", "replace")
            case int():
                return self._random.choice([0, -1, sample + 1, 2**63, sample])
            case tuple():
                at = self._random.randrange(len(sample))
                return (*sample[:at], self._changed(sample[at], ()), *sample[at + 1 :])
            case dict():
                return self._mapping(sample)
        return sample

    def _mapping(self, sample: Mapping[str, str]) -> dict[str, str]:
        name = self._random.choice(sorted(sample))
        match self._random.randrange(4):
            case 0:
                return {key: value for key, value in sample.items() if key != name}
            case 1:
                return {**sample, name: sample[self._random.choice(sorted(sample))]}
            case 2:
                return {**sample, self._changed(name, ()): sample[name]}
        return {**sample, name: self._changed(sample[name], ())}

    def _bytes(self, data: bytes, samples: Sequence[Any]) -> bytes:
        for _ in range(self._random.choice((1, 1, 1, 2, 4))):
            data = self._once(data, samples)
        return data

    def _once(self, data: bytes, samples: Sequence[Any]) -> bytes:
        one, other = sorted((self._random.randint(0, len(data)), self._random.randint(0, len(data))))
        match self._random.randrange(7):
            case 0:
                return data[:one]
            case 1:
                return data[:one] + data[other:]
            case 2:
                return data[:one] + self._random.choice(PIECES) + data[one:]
            case 3:
                return data[:one] + self._random.choice(PIECES) + data[other:]
            case 4:
                return data[:other] + data[one:other] + data[other:]
            case 5 if samples and isinstance(another := self._random.choice(samples), bytes):
                return data[:one] + another[self._random.randint(0, len(another)) :]
        if not data:
            return self._random.choice(PIECES)
        at = min(one, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << self._random.randrange(8))]) + data[at + 1 :]


def recorded() -> Iterator[tuple[str, dict[str, str], bytes, int]]:
    """Yields the messages of a recorded log that are still read: subject, headers, payload and sequence."""
    with gzip.open(ROOT / "tests-e2e/recorded_log/events.jsonl.gz") as file:
        for line in file:
            each = json.loads(line)
            message = each["subject"], each["headers"], each["payload"].encode(), each["sequence"]
            with suppress(UnknownEventError):
                read_fact(*message)
                yield message


def signed_messages() -> Iterator[tuple[str, dict[str, str], bytes, int]]:
    """Yields recorded messages with signatures of the test's keys."""
    for subject, headers, payload, sequence in LOG:
        owner = subject.split(".")[3]
        [signature] = signing_identity(owner).sign([leaf_of(subject, headers, payload)])
        yield subject, {**headers, SIGNATURE_HEADER: signature}, payload, sequence


def decode_event(sample: tuple[str, int, bytes]) -> None:
    event = decode(*sample)
    assert decode(event.TYPE, event.VERSION, encode(event)) == event


def verify(sample: tuple[str, dict[str, str], bytes, int]) -> None:
    known = KnownKeys(b"k" * 32)
    assert known.verify(*sample) is not None  # no key is known, so that nothing counts


def parse(stream: str, sample: tuple[str, dict[str, str], bytes, int]) -> None:
    subject, headers, payload, sequence = sample
    item = parse_stored(HANDLERS, "billing", stream, max(sequence, 1) % 2**63, subject, headers, payload)
    assert item.error is not None or item.argument is not None


def strict(document: bytes) -> None:
    json.dumps(read_json(document))


def columns_and_headers() -> list[tuple[str, tuple[Any, ...]]]:
    found = []
    for subject, headers, *_ in LOG:
        columns = headers["ce-id"], headers["pb-aggregate"], 1, headers.get("pb-tenant"), subject, NOW
        found.append((compact(headers), columns))
    return found


def receive(sample: tuple[bytes, dict[str, str]]) -> None:
    body, headers = sample
    StripeInbound((SECRET,)).receive(body, headers, NOW)


def webhook_headers(body: bytes) -> dict[str, str]:
    text = body.decode("utf-8", "surrogatepass")
    return {"stripe-signature": stripe.WebhookSignature.generate_signature_header(text, SECRET, int(NOW.timestamp()))}


def receive_signed(body: bytes) -> None:
    try:
        headers = webhook_headers(body)
    except UnicodeError:
        return  # nobody can sign it
    receive((body, headers))


def webhooks() -> list[bytes]:
    item = {"id": "sub_1", "object": "subscription", "customer": "cus_1", "items": {"data": [{"id": "si_1"}]}}
    types = ("customer.subscription.updated", "invoice.paid", "checkout.session.completed", "product.created")
    return [
        canonical(
            {
                "id": f"evt_{n}",
                "object": "event",
                "type": type_,
                "created": n,
                "livemode": False,
                "data": {"object": item},
            }
        )
        for n, type_ in enumerate(types)
    ]


def usage_reports() -> list[tuple[str, dict[str, str], bytes, int]]:
    event = Usage(tenant_id="ten_" + "a" * 32, meter="calls", quantity=12, occurred_at=NOW)
    headers = intake_headers(IntakeEvent(event, str(uuid4()), "metering", NOW, child("")))
    return [(intake_subject("metering", event), headers, encode(event), 1)]


def licence_texts() -> tuple[list[str], list[str], list[bytes]]:
    """Returns a licence, a list of revocations, and the set of keys that both are signed with."""
    key = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
    public = key.public_key().public_bytes_raw()
    claims = {"alg": "Ed25519", "kid": licence_key_id(public), "issued_at": NOW}
    licence = Licence(
        **claims,
        licence_id="lic_" + "a" * 32,
        tenant_id="ten_" + "b" * 32,
        subscription_id="sub_" + "c" * 32,
        plan=PlanRef(plan="pro", version=2, catalogue_hash="d" * 64),
        tier="pro",
        features=(LimitFeature(kind="limit", key="projects", limit=20),),
        entitlements_hash="e" * 64,
        seats=3,
        not_before=NOW,
        expires_at=NOW + timedelta(days=30),
        revision=4,
    )
    revocations = Revocations(**claims, number=7, next_update=NOW + timedelta(days=7), revoked=())
    texts = [assemble(each, base64url(key.sign(signing_input(each)))) for each in (licence, revocations)]
    return texts[:1], texts[1:], [canonical({"keys": [jwk(base64url(public))]})]


def definitions(name: str) -> list[str]:
    return [path.read_text() for path in sorted((ROOT / "services").rglob(name))]


SIGNATURES = sign(
    Ed25519PrivateKey.from_private_bytes(b"s" * 32), key_id(b"s" * 32), [bytes([n]) * 32 for n in range(7)]
)
LICENCES, REVOCATIONS, LICENCE_KEYS = licence_texts()
LOG = list(recorded())
WEBHOOKS = webhooks()
KEYS = read_keys(LICENCE_KEYS[0])
PRICES = "name: prices\nversion: 1\nsource: list\ndate: 2026-11-01\ncurrency: EUR\nprices:\n"
PRICES += "  - {kind: database, cloud: local, isolation: silo, minor: 4800}\n"
DECODERS = {
    "event": Decoder([(h["ce-type"], 1, payload) for _, h, payload, _ in LOG], decode_event, (DomainError, ValueError)),
    "fact": Decoder(LOG, lambda sample: read_fact(*sample), (DomainError,)),
    "report of usage": Decoder(usage_reports(), lambda sample: read_intake_event(*sample), (DomainError,)),
    "message of the log": Decoder(LOG, partial(parse, EVENTS), ()),
    "message of the intake": Decoder(usage_reports(), partial(parse, INTAKE), ()),
    "signature": Decoder(SIGNATURES, read_signature, (MalformedSignatureError,)),
    "signed message": Decoder(list(signed_messages()), verify, ()),
    "JSON": Decoder([payload for _, _, payload, _ in LOG], strict, (JsonError,)),
    "row of the outbox": Decoder(
        columns_and_headers(), lambda sample: complete(sample[0], FactColumns._make(sample[1])), (ValueError,)
    ),
    "webhook": Decoder([(body, webhook_headers(body)) for body in WEBHOOKS], receive, (DeliveryRefusedError,)),
    "signed webhook": Decoder(WEBHOOKS, receive_signed, (DeliveryRefusedError,)),
    "licence": Decoder(LICENCES, lambda token: verify_licence(token, KEYS, NOW), (LicenceRefusedError,)),
    "revocations": Decoder(REVOCATIONS, lambda token: verify_revocations(token, KEYS, NOW), (LicenceRefusedError,)),
    "keys of licences": Decoder(LICENCE_KEYS, read_keys, (LicenceRefusedError,)),
    "plans": Decoder(definitions("plans.yaml"), lambda text: read_plans(text, "f"), (DomainError,), 0.02),
    "blueprints": Decoder(definitions("blueprints.yaml"), lambda text: read_blueprint(text, "f"), (DomainError,), 0.02),
    "policy": Decoder(definitions("policy.yaml"), lambda text: read_policy(text, "f"), (DomainError,), 0.02),
    "prices": Decoder([PRICES], lambda text: read_price_book(text, "f"), (DomainError,), 0.1),
    "grants": Decoder(GRANTS, split, (CedarError, OutsideSubsetError)),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_accepts_or_refuses_every_mutation(name: str) -> None:
    decoder, mutator = DECODERS[name], Mutator(SEED)
    for sample in decoder.samples:
        decoder.run(sample)
    amount = int(EXECUTIONS * decoder.share / sum(each.share for each in DECODERS.values()))
    outcomes, slowest_s = Counter[str](), 0.0
    for number in range(amount):
        sample = mutator.of(decoder.samples)
        began = time.perf_counter()
        try:
            decoder.run(sample)
        except decoder.errors as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:
            error.add_note(f"PAYBILL_TEST_FUZZ_SEED={SEED}, execution {number} of {name}: {str(sample)[:2000]!r}")
            raise
        else:
            outcomes["accepted"] += 1
        slowest_s = max(slowest_s, time.perf_counter() - began)
    sys.stdout.write(f"{name}: {amount} executions, slowest {slowest_s * 1000:.0f} ms, {dict(outcomes)}; {SEED=}\n")
    assert amount > 0
    assert slowest_s < LONGEST_S

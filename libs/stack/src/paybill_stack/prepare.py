"""Creates the files that every start needs: identities, signing keys, Stripe secrets, and the allowed publishers."""

import json
import secrets

from paybill_embedded.credentials import private_dir, write_private
from paybill_embedded.errors import writing
from paybill_embedded.nats import DEFAULT_PUBLISHERS
from paybill_embedded.signing_keys import make_root, make_signing_key
from paybill_runtime.security.identity import make_identity

from paybill_stack.layout import IDENTITY_NAMES, SERVICES, Layout


def prepare(layout: Layout) -> None:
    """Creates missing files below `layout`; existing files are not changed.

    Raises EmbeddedError data_dir_unwritable.
    """
    folders = (layout.credentials, layout.secrets, layout.local, layout.stripe_state.parent, layout.log("any").parent)
    for folder in folders:
        private_dir(folder)
    with writing(layout.identities):
        for name in IDENTITY_NAMES:
            make_identity(layout.identities, name)
        root = make_root(layout.steward)
        for name in SERVICES:
            make_signing_key(layout.identities, name, root)
    texts = {
        layout.publishers: json.dumps({name: {"tenants": ["*"]} for name in DEFAULT_PUBLISHERS}, indent=2),
        layout.stripe_api_key: f"sk_test_{secrets.token_urlsafe(32)}",
        layout.stripe_webhook_secrets: f"whsec_{secrets.token_urlsafe(32)}",
    }
    for path, text in texts.items():
        if not path.exists():
            write_private(path, text + "\n")

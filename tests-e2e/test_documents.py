"""Runs every command in the shell blocks of the documents on one stack, and parses every command within a sentence."""

import faulthandler
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import laptop_stack
import pytest
import stripe
from paybill_cli.command import load
from paybill_cli.tree import TREE, Branch
from paybill_stripe_fake.client import FakeControl

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(path for place in ("docs", "deploy") for path in (ROOT / place).glob("**/*.md"))
WITHIN_S = 60
ALL_WITHIN_S = 500
"""Longer than the limit of other tests: it runs 100 commands one after another."""
CATALOGUE = ROOT / "services/billing/src/paybill_billing/plans.yaml"
BLUEPRINT = ROOT / "services/provisioner/src/paybill_provisioner/blueprints.yaml"

FLOW = (
    ("docs/api-keys.md", 0, ""),
    ("docs/signing-keys.md", 0, ""),
    ("docs/lifecycle.md", 0, ""),
    ("docs/reconciliation.md", 0, "customers"),
    ("docs/entitlements.md", 0, ""),
    ("docs/licences.md", 0, ""),
    ("docs/lifecycle.md", 1, ""),
    ("docs/architecture.md", 0, ""),
    ("docs/why.md", 0, ""),
    ("docs/usage.md", 0, ""),
    ("docs/blueprints.md", 0, "new_blueprint"),
    ("docs/blueprints.md", 1, ""),
    ("docs/environments.md", 3, ""),
    ("docs/environments.md", 4, ""),
    ("docs/environments.md", 5, "drifted"),
    ("docs/environments.md", 0, "prices"),
    ("docs/catalogue.md", 0, "new_version"),
    ("docs/changes.md", 1, ""),
    ("docs/changes.md", 0, ""),
    ("docs/reconciliation.md", 1, "adopted"),
    ("docs/reconciliation.md", 2, "backfilled"),
    ("docs/environments.md", 1, "policy"),
    ("docs/environments.md", 2, "held"),
)
"""Every block in the order in which it can run, and what is prepared before it."""
NOT_RUN = {
    (
        "docs/providers.md",
        0,
    ): "needs a key of a Stripe account; a stack on the fake without webhooks is tested in the CLI",
    ("docs/providers.md", 1): "a setting, whose package of a third party is not installed",
    ("docs/agents.md", 0): "needs a product with agents; the README of its example is run whole (test_example.py)",
}
"""Blocks that need what this stack does not have. Their commands are parsed."""
EXIT_CODES = {
    "paybill environment drift acme": (1, "a difference is open"),
    "paybill environment drift acme --dry-run": (1, "as above"),
    "paybill provider stop rec_…": (6, "the run has ended meanwhile"),
    'paybill plans pause-move mov_… --reason "a customer called"': (6, "the migration has ended meanwhile"),
    "paybill plans resume-move mov_…": (6, "as above"),
    "paybill environment certificate TENANT": (6, "it is not purged"),
    "paybill environment retry TENANT": (6, "nothing has failed"),
    "paybill jobs retry JOB": (2, "no job waits whose id could be written"),
}
"""Commands that end with another code than 0 here, and why; most because the one before them waited for the end."""
RUN_WHOLE = ("docs/blueprints.md", "docs/environments.md", "docs/api-keys.md")
"""Documents of which every complete command within a sentence is run, too, about a tenant that is active."""
NOT_RUN_IN_SENTENCES = {
    "paybill up": "it runs the stack of this test",
    "paybill up --new-key": "as above",
    "paybill key rotate": "it ends the key of this test",
    "paybill doctor": "its own tests run it; here it reports what the blocks have left",
}
VALUES = {"2027-01-01": f"{time.gmtime().tm_year + 1}-12-31"}
"""Values in place of those that grow old."""


def blocks(path):
    """Returns the commands of each shell block, without comments."""
    found = re.findall(r"^```(?:console|bash|sh|shell)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [
        [line for each in block.splitlines() if (line := re.sub(r"(^|\s+)#.*", "", each).strip())] for block in found
    ]


BLOCKS = {
    (path.relative_to(ROOT).as_posix(), number): lines
    for path in DOCUMENTS
    for number, lines in enumerate(blocks(path))
}


def command_and_arguments(line):
    """Returns the command of the tree, its name and its arguments."""
    program, *arguments = shlex.split(line.partition(" > ")[0])
    assert program == "paybill"
    node, name = TREE, program
    while isinstance(node, Branch):
        name, *arguments = arguments
        node = node.commands[name]
    return load(node, name), name, arguments


def test_every_block_is_run_or_has_a_reason() -> None:
    assert len(BLOCKS) > 10
    assert sorted([*((file, number) for file, number, _ in FLOW), *NOT_RUN]) == sorted(BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block[0]}-{block[1]}")
def test_every_command_takes_its_arguments(block, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stripe-test-key").touch()  # its option checks that the file exists
    for line in BLOCKS[block]:
        if line.startswith("paybill "):
            command, name, arguments = command_and_arguments(line)
            command.make_context(name, arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_in_a_sentence_exists_with_its_options(document) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"`(paybill [a-z][^`]*)`", text):
        words = re.sub(r"[\[\]|]", " ", line).split()
        if words[-1] in {"…", words[1]} and isinstance(TREE.commands[words[1]], Branch):
            continue  # all commands of a group
        command, _, arguments = command_and_arguments(" ".join(words))
        if command.context_settings.get("ignore_unknown_options"):
            continue
        options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert [each for each in arguments if each.startswith("--") and each not in {*options, "--help"}] == [], line


def complete_in_sentences(document):
    """Returns the commands in sentences of a document that have all arguments, and are in none of its blocks."""
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)
    known = {*NOT_RUN_IN_SENTENCES, *(line for lines in BLOCKS.values() for line in lines)}
    for line in sorted({*re.findall(r"`(paybill [a-z][^`]*)`", text)} - known):
        command, name, arguments = command_and_arguments(line)
        with command.make_context(name, list(arguments), resilient_parsing=True) as context:
            missing = [each.name for each in command.params if each.required and context.params[each.name] is None]
        if not missing:  # else it is the name of a command
            yield line


class Operator:
    """Runs commands on the stack, and remembers the ids that they print."""

    def __init__(self, variables, folder):
        self._variables = {**os.environ, **variables, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._folder = folder
        self._ids = {}

    def run(self, line):
        """Runs a line of a shell; returns its result."""
        done = subprocess.run(
            ["bash", "-c", line],
            env=self._variables,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        self._ids.update(
            {found.partition("_")[0]: found for found in re.findall(r"\b[a-z]{3}_[0-9a-f]{16,32}\b", done.stdout)}
        )
        return done

    def documented(self, line, values):
        """Runs a line of a document, with ids in place of `lic_…`, and without a question."""
        filled = re.sub(r"\b([a-z]{3})_…", lambda found: self._ids[found[1]], line)
        for written, value in values.items():
            filled = re.sub(rf"(?<![\w.@]){re.escape(written)}(?![\w.])", value, filled)
        if line.startswith("paybill "):
            command, _, arguments = command_and_arguments(filled)
            if any("--yes" in each.opts for each in command.params) and not {"--yes", "--dry-run"} & {*arguments}:
                command_line, redirected, file = filled.partition(" > ")
                filled = f"{command_line} --yes{redirected}{file}"
        return self.run(filled)

    def wait_for_status(self, slug, status):
        """Waits until a tenant has a status."""
        deadline = time.monotonic() + WITHIN_S
        while f"status: {status}" not in (shown := self.run(f"paybill tenant show {slug}").stdout):
            assert time.monotonic() < deadline, shown

    def sign_up(self, slug, plan):
        """Signs up a tenant, pays at its checkout, and waits until it is active."""
        email = "--region eu-central --email ops@acme.example"
        made = json.loads(self.run(f"paybill tenant create {slug} --plan {plan} {email} --json").stdout)["data"]
        fake, _, checkout = made["checkout_url"].partition("/fake/checkout/")
        with FakeControl(fake, "no key is needed to pay") as control:
            control.pay_checkout(checkout)
        self.wait_for_status(slug, "active")


class Preparations:
    """Prepares what a block needs: a method returns the values in place of those of the document."""

    def __init__(self, operator, variables, folder):
        self._operator = operator
        self._data_dir = Path(variables["PAYBILL_DATA_DIR"])
        self._folder = folder

    def customers(self):
        """Publishes the plan pro@1, and signs up acme and a customer of pro@1."""
        self._write_catalogue(
            "{plan: pro, version: 1, name: Pro, tier: team, placement: bridge, grace: 14d, retention: 60d, "
            "features: [], prices: [{minor: 4900, currency: EUR, interval: month}]}"
        )
        done = self._operator.run("paybill plans publish plans.yaml --yes")
        assert done.returncode == 0, done.stderr
        (self._folder / "blueprints.yaml").write_text(BLUEPRINT.read_text())
        self._operator.sign_up("acme", "starter")
        self._operator.sign_up("globex", "pro")
        return {}

    def new_blueprint(self):
        """Adds a version with another limit of connections, and with a tier on two placements, to the file."""
        text = BLUEPRINT.read_text().replace("version: 1", "version: 2")
        starter = text[text.index("  - tier: starter") : text.index("  - tier: team")].replace("pooled", "silo")
        text = f"{text.replace('connection_limit: 25', 'connection_limit: 30')}{starter}"
        (self._folder / "blueprints.yaml").write_text(text)
        return {}

    def drifted(self):
        """Gives the files of acme another mode than its record has."""
        shown = json.loads(self._operator.run("paybill environment show acme --json").stdout)["data"]
        (bucket,) = [each["attributes"]["name"] for each in shown["resources"] if each["address"] == "bucket.data"]
        (directory,) = self._data_dir.rglob(bucket)
        directory.chmod(0o750)
        return {}

    def prices(self):
        """Writes the price book of the document."""
        document = (ROOT / "docs/environments.md").read_text()
        (book,) = re.findall(r"^```yaml\n(name: list-prices.*?)^```", document, re.DOTALL | re.MULTILINE)
        (self._folder / "prices.yaml").write_text(book)
        return {}

    def policy(self):
        """Writes the policy of the document."""
        document = (ROOT / "docs/environments.md").read_text()
        (policy,) = re.findall(r"^```yaml\n(name: standard.*?)^```", document, re.DOTALL | re.MULTILINE)
        (self._folder / "policy.yaml").write_text(policy)
        return {}

    def held(self):
        """Signs up a tenant, and publishes a change of its login that waits for an approval."""
        self._operator.sign_up("initech", "starter")
        policy, blueprint = self._folder / "policy.yaml", BLUEPRINT.read_text().replace("version: 1", "version: 3")
        rules = policy.read_text().replace("version: 2", "version: 3")
        policy.write_text(rules.replace("updates: unattended", "updates: approval"))
        for old, new in ((10, 9), (25, 30)):
            blueprint = blueprint.replace(f"connection_limit: {old}", f"connection_limit: {new}")
        (self._folder / "blueprints.yaml").write_text(blueprint)
        for line in ("policy publish policy.yaml", "blueprint publish blueprints.yaml"):
            done = self._operator.run(f"paybill {line} --yes")
            assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + WITHIN_S
        while "initech" not in (shown := self._operator.run("paybill approval list --status requested").stdout):
            assert time.monotonic() < deadline, shown
        return {"acme": "initech"}

    def new_version(self):
        """Adds pro@2 to the file of the catalogue."""
        self._write_catalogue(
            "{plan: pro, version: 2, name: Pro, tier: team, placement: bridge, grace: 14d, retention: 60d, "
            "features: [], prices: [{minor: 5900, currency: EUR, interval: month}]}"
        )
        return {}

    def adopted(self):
        """Creates a customer at the Stripe fake."""
        return {"cus_Q1w2e3": self._customer(), "acme": "adopted"}

    def backfilled(self):
        """Creates another customer, and writes the file of the document."""
        values = {"cus_Q1w2e3": self._customer(), "acme": "backfilled"}
        (table,) = re.findall(
            r"^```csv\n(.*?)^```", (ROOT / "docs/reconciliation.md").read_text(), re.DOTALL | re.MULTILINE
        )
        for written, value in values.items():
            table = table.replace(f"{written},", f"{value},")
        (self._folder / "customers.csv").write_text(table)
        return {}

    def _write_catalogue(self, plan):
        (self._folder / "plans.yaml").write_text(f"{CATALOGUE.read_text()}\n  - {plan}\n")

    def _customer(self):
        """Returns the id of a new customer with a trial of the plan team."""
        address = json.loads((self._data_dir / "stack.json").read_text())["stripe_fake"]["url"]
        key = (self._data_dir / "credentials" / "stripe-api-key").read_text().strip()
        client = stripe.RequestsClient()
        at = stripe.StripeClient(key, base_addresses={"api": address}, http_client=client).v1
        price = at.prices.create(
            {
                "currency": "eur",
                "unit_amount": 100,
                "recurring": {"interval": "month"},
                "product_data": {"name": "Old"},
                "metadata": {"paybill_plan": "team", "paybill_version": "1"},
            }
        )
        customer = at.customers.create({"name": "Old", "email": "ops@acme.example"}).id
        at.subscriptions.create({"customer": customer, "items": [{"price": price.id}], "trial_period_days": 30})
        client.close()
        return customer


def test_every_command_of_the_documents_runs(tmp_path) -> None:
    faulthandler.dump_traceback_later(ALL_WITHIN_S, exit=True, file=sys.__stderr__)
    folder = tmp_path / "folder"
    folder.mkdir()
    with laptop_stack.running(tmp_path / "data") as variables:
        operator = Operator(variables, folder)
        preparations = Preparations(operator, variables, folder)
        for file, number, preparation in FLOW:
            values = VALUES | (getattr(preparations, preparation)() if preparation else {})
            for line in BLOCKS[file, number]:
                done = operator.documented(line, values)
                expected, _ = EXIT_CODES.get(line, (0, ""))
                assert done.returncode == expected, f"{file}: {line}\n{done.stdout[-800:]}{done.stderr[-800:]}"
        keys = json.loads(operator.run("paybill key list --subject user:staff-17 --json").stdout)["data"]
        values = {"TENANT": "initech", "acme": "initech", "JOB": "no-such-job", "KEY": keys[0]["id"]}
        sentences = {line: file for file in RUN_WHOLE for line in complete_in_sentences(file)}
        assert len(sentences) > 10
        for line, file in sentences.items():
            done = operator.documented(line, values)
            expected, _ = EXIT_CODES.get(line, (0, ""))
            assert done.returncode == expected, f"{file}: {line}\n{done.stdout[-800:]}{done.stderr[-800:]}"

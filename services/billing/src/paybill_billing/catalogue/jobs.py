"""Start-up job of the catalogue: publishes the configured file when no catalogue exists."""

from importlib.resources import files
from pathlib import Path

from paybill_contracts.envelope import Origin
from paybill_definitions.plans_file import Plans, PlansError, read_plans
from paybill_runtime.decisions.context import ServiceContext
from paybill_runtime.decisions.unit_of_work import DecisionContext, UnitOfWork
from paybill_runtime.errors import ConfigurationError
from sqlmodel import select

from paybill_billing.catalogue.domain import catalogue, tiers
from paybill_billing.catalogue.domain.catalogue import CatalogueRefusedError
from paybill_billing.catalogue.tables import CATALOGUES, TIERS, CatalogueRow

_START = Origin("start", "start", "service:billing", "")


async def publish_initial_catalogue(context: ServiceContext) -> None:
    """Publishes the catalogue file unless a catalogue exists; operators publish later versions.

    Raises ConfigurationError, which ends the start, so that no wrong catalogue is sold.
    """
    if await context.rows(select(CatalogueRow.id)):
        return
    plans = _plans(context.settings.catalogue_file)

    def decide(unit: UnitOfWork, _: DecisionContext) -> None:
        current, known = unit.get(CATALOGUES, catalogue.CATALOGUE), unit.get(TIERS, tiers.TIERS)
        if current is None:
            published = catalogue.publish(None, plans.content, known.buildable if known is not None else None)
            unit.record(CATALOGUES, catalogue.CATALOGUE, published)

    try:
        await context.decide(
            _START, decide, writes=[CATALOGUES.key(catalogue.CATALOGUE)], reads=[TIERS.key(tiers.TIERS)]
        )
    except CatalogueRefusedError as error:
        raise ConfigurationError("\n".join(plans.report(error.objections))) from None


def _plans(path: Path | None) -> Plans:
    name = str(path or "plans.yaml")
    try:
        source = files("paybill_billing").joinpath("plans.yaml") if path is None else path
        return read_plans(source.read_text(encoding="utf-8"), name)
    except PlansError as error:
        raise ConfigurationError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the catalogue {name} cannot be read: {error}") from None

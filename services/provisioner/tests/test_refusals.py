"""A statement that the server refuses permanently fails at once; what another attempt may not meet is tried again."""

import asyncpg
import pytest
from paybill_contracts.kinds import Column
from paybill_contracts.placement import Preset
from paybill_provisioner.drivers.server import refusals
from paybill_provisioner.execution import StepError
from paybill_runtime.jobs.effects import Refused


@pytest.mark.parametrize("preset", [Preset.POOLED, Preset.SILO])
async def test_a_column_that_every_table_has_is_a_refusal(harness, preset) -> None:
    (table,) = harness.tables
    harness.tables = (table.model_copy(update={"columns": (*table.columns, Column(name="xmin", type="text"))}),)

    with pytest.raises(
        StepError, match=r'schema\.main: .* refuses: column name "xmin" conflicts .* \(42701\)'
    ) as error:
        await harness.ready(preset)
    assert isinstance(error.value.cause, Refused)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (asyncpg.DuplicateColumnError, Refused),
        (asyncpg.DependentObjectsStillExistError, Refused),
        (asyncpg.DatetimeFieldOverflowError, Refused),
        (asyncpg.TooManyColumnsError, Refused),
        (asyncpg.FeatureNotSupportedError, Refused),
        (asyncpg.DuplicateSchemaError, asyncpg.DuplicateSchemaError),
        (asyncpg.UndefinedObjectError, asyncpg.UndefinedObjectError),
        (asyncpg.UniqueViolationError, asyncpg.UniqueViolationError),
        (asyncpg.InternalServerError, asyncpg.InternalServerError),
    ],
)
async def test_the_class_of_an_error_decides(error, raised) -> None:
    with pytest.raises(raised, match="no"):
        async with refusals():
            raise error("no")

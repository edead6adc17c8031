"""Slots: a value outside its bounds is refused, and the refusal names no value of a row."""

import pytest
from paybill_agent_gateway.domain.refusals import InvalidInputError
from paybill_agent_gateway.domain.values import Known, slot_values
from paybill_contracts.agent_bundles import ComputeStep, FieldValue, FixedValue, Slot, SlotType


@pytest.mark.parametrize(
    ("given", "what"), [(4, "less than its minimum, 5"), (778, "more than its maximum, person.age")]
)
def test_a_refusal_names_a_field_that_bounds_a_slot_without_its_value(given: int, what: str) -> None:
    maximum = FieldValue(step="person", field="age")
    slot = Slot(type=SlotType.INTEGER, minimum=FixedValue(value=5), maximum=maximum)
    step = ComputeStep(name="ask", next="end", values={"age": slot})

    with pytest.raises(InvalidInputError) as refused:
        slot_values(step, Known("run_1", {}, {"person": {"age": 777}}), {"age": given})

    assert str(refused.value) == f"the slot age is {what}"

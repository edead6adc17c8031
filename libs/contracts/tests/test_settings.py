"""Unknown settings are refused with the nearest name."""

import pytest
from paybill_contracts.settings import unknown_settings


@pytest.mark.parametrize(
    ("variables", "explanation"),
    [
        ((), None),
        (("PATH", "PAYBILL_LEASE_S", "paybill_lease_s", "PAYBILL_TEST_ANYTHING", "_PAYBILL_COMPLETE"), None),
        (("PAYBILL_LEASES",), "PAYBILL_LEASES is no setting; did you mean PAYBILL_LEASE_S?"),
        (("paybill_nats_uri",), "paybill_nats_uri is no setting; did you mean PAYBILL_NATS_URL?"),
        (("PAYBILL_XYZ",), "PAYBILL_XYZ is no setting; remove the variable"),
        (
            ("PAYBILL_QQ", "PAYBILL_"),
            "; ".join(f"PAYBILL_{end} is no setting; remove the variable" for end in ("", "QQ")),
        ),
    ],
)
def test_unknown_settings_are_named_with_the_nearest_setting(variables, explanation):
    assert unknown_settings(variables) == explanation

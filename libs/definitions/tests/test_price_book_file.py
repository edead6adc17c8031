"""Errors of a price book are reported with file, line and reason."""

import pytest
from paybill_definitions.price_book_file import PriceBookFileError, read_price_book

PRICES = """\
name: list-prices
version: 1
source: price list of the hosting contract
date: 2026-11-01
currency: EUR
prices:
  - {kind: database, cloud: local, isolation: silo, minor: 4800}
  - {kind: database, cloud: local, isolation: silo, per: storage_gib, minor: 10}
  - {kind: bucket, cloud: local, minor: 1200}
"""


def test_a_price_book_keeps_its_source_and_date() -> None:
    content = read_price_book(PRICES, "p.yaml").content

    assert (content.source, content.date, content.currency) == (
        "price list of the hosting contract",
        "2026-11-01",
        "EUR",
    )
    assert [each.minor for each in content.prices] == [4800, 10, 1200]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("EUR", "XYZ", "p.yaml:5: XYZ is no currency of ISO 4217"),
        ("kind: bucket", "kind: folder", "p.yaml:9: there is no kind folder"),
        ("cloud: local, minor: 1200", "cloud: moon, minor: 1200", "p.yaml:9: there is no driver for moon"),
        ("per: storage_gib", "per: count", "p.yaml:8: a database has no attribute count"),
        ("per: storage_gib, ", "", "p.yaml:8: this case has a price already, number 1 of `prices`"),
        ("minor: 1200", "minor: 12.5", "p.yaml:9: prices.2.minor: write a whole number"),
        ("minor: 1200", "minor: -1", "p.yaml:9: prices.2.minor: write 0 or more"),
        ("minor: 1200", "minor: 1000000000000001", "p.yaml:9: prices.2.minor: write 1000000000000000 or less"),
        ("minor: 1200", "minor: 9007199254740991", "p.yaml:9: prices.2.minor: write 1000000000000000 or less"),
        ("minor: 1200", "minor: 9007199254740992", "p.yaml:9: prices.2.minor: the number has more than 53 bits"),
        ("2026-11-01", "last week", "p.yaml:4: date: "),
        ("source: price list of the hosting contract\n", "", "p.yaml:1: source: it is required"),
        ("isolation: silo, minor", "isolaton: silo, minor", "p.yaml:7: prices.0.isolaton: there is no such field"),
    ],
)
def test_an_error_has_file_line_and_reason(old: str, new: str, message: str) -> None:
    with pytest.raises(PriceBookFileError) as error:
        read_price_book(PRICES.replace(old, new, 1), "p.yaml")

    assert message in str(error.value)

"""The chassis of every Paybill service: it makes sure that a fact is never lost and never applied twice."""

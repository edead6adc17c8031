"""Peers of Paybill's figures: the same work, written as well as their tools allow."""

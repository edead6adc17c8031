"""Starts, watches, restarts and stops every part of Paybill on one machine."""

"""Diagnosis: the problems that a service found, for the operators who resolve them.

Guarantees: a problem is a fact of the service that found it, and is open once for each kind and subject.
"""

"""Forecourt: a secured multi-tenant prediction backend.

The floors, from the ground up: ``domain``, ``services``, then ``adapters`` and ``model_service``, then ``api``, and
on top ``main``, ``cli`` and ``worker``, which put the house together. Imports go down only.
"""

__version__ = "0.1.0"

"""Principals for tests that need one and not its history."""

from __future__ import annotations

from proxy.auth.managed import ADMINISTRATOR_ACCESS, AWS_MANAGED
from proxy.model.identity import AttachedPolicy

_FULL = AWS_MANAGED[ADMINISTRATOR_ACCESS]
ADMINISTRATORS = (AttachedPolicy(_FULL.document, _FULL.name, _FULL.arn),)
"""The policies of one who may do everything in its account."""

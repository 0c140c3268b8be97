"""Tenants, their businesses, and what each business overrides."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class Thresholds(Struct, frozen=True):
    """Confidence at or above `high` acts, between `low` and `high` asks a person too, below reviews."""

    high: float = 0.80
    low: float = 0.50


class Business(Struct, frozen=True):
    """One business: whose it is, and its own thresholds."""

    business_id: str
    tenant_id: str
    thresholds: Thresholds = Thresholds()
    #: A dead letter's later messages wait behind it, instead of going on.
    parks: bool = False


class Tenants(Struct, frozen=True):
    """Every business Leadline works for, by its id."""

    businesses: Mapping[str, Business]

    def find(self, business_id: str) -> Business | None:
        return self.businesses.get(business_id)

    @classmethod
    def of(cls, tenants: Mapping[str, list[str]]) -> Tenants:
        """From tenant id → its business ids, each with default thresholds."""
        return cls(
            {
                business: Business(business, tenant)
                for tenant, businesses in tenants.items()
                for business in businesses
            }
        )

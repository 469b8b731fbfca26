"""Quotas: how many probes of each kind are wanted, so that none of them fills a set alone."""

from __future__ import annotations

from collections.abc import Sequence


def spread(total: int, groups: Sequence[Sequence[str]]) -> dict[str, int]:
    """``total`` shared evenly by the groups that are not empty, and by the names of each; the first get the rest."""
    named = [group for group in groups if group]
    return {
        name: wanted
        for group, part in zip(named, _parts(total, len(named)), strict=True)
        for name, wanted in zip(group, _parts(part, len(group)), strict=True)
        if wanted
    }


def _parts(total: int, n: int) -> list[int]:
    return [total // n + (index < total % n) for index in range(n)]


__all__ = ["spread"]

"""Testing: what a plugin author's own tests use.

::

    from diffbench.testing import check_method

    def test_contract():
        check_method(MyDiff)
"""

from __future__ import annotations

from typing import Any

from diffbench import check
from diffbench.tiny import tiny_model, tiny_pair

__all__ = ["check_method", "tiny_model", "tiny_pair"]


def check_method(method: type[Any], **options: Any) -> None:
    """Run a method class through the contract, as ``diffbench check`` does.

    Raises:
        AssertionError: naming every point that failed.
    """
    failed = [point for point in check.check_method(method, options) if point.state == "failed"]
    if failed:
        name = getattr(method, "name", method)
        raise AssertionError(f"{name} breaks the contract:\n" + "\n".join(f"  {p.name}: {p.detail}" for p in failed))

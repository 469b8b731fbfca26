"""The example's own tests; run where the package is installed: ``pytest check_example.py``."""

from __future__ import annotations

from diffbench_plugin_example import ExampleMean

from diffbench.testing import check_method


def test_contract() -> None:
    check_method(ExampleMean, strength=0.5)

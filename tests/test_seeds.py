from __future__ import annotations

from diffbench.seeds import derive


def test_seeds_are_fixed_for_ever() -> None:
    """Every published organism hangs on these."""
    assert derive(0, "split", "method") == 1_528_696_147_416_955_855
    assert derive(0) != derive(1)


def test_purposes_are_apart_and_fit_every_generator() -> None:
    found = [derive(seed, *purpose) for seed in range(20) for purpose in ((), ("a",), ("b",), ("a", "b"), ("b", "a"))]
    assert len(set(found)) == len(found)
    assert all(0 <= value < 2**62 for value in found)

"""Templates of the packages that ``diffbench new`` writes; ``$name`` and the like are filled in."""

"""The deployed student: it stands alone, without what trains it."""

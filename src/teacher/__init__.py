"""The teacher: training, safe loading, and the frozen view of it."""

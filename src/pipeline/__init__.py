"""The moments of a run, one file each; the only package that sees all others.

``teacher`` -> ``stage_a`` -> ``stage_b`` (with the confounder dictionary) -> ``record``.
"""

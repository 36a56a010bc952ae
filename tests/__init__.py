"""A package, not a bare folder: of this name torch-fidelity installs one, which would win."""

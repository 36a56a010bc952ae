"""Data sets and unlabeled pools, decoded to uint8 tensors."""

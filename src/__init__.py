"""KDCI: de-confounded data-free knowledge distillation."""

"""Pure losses of tensors."""

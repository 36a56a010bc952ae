"""What a finished run looks like from inside: tensors in, numbers out."""

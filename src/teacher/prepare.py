"""A teacher that is ready: loaded from a checkpoint, reused, or trained."""

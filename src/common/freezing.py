"""Contexts that freeze a module for a while and put it back exactly as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Stop gradients from being computed for the parameters; those of inputs still flow.

    The reference implementations back-propagate into teacher and student weights during
    synthesis and throw the result away; freezing gives the same numbers for less.
    """
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put ``module`` in train or eval mode, and every sub-module back where it was."""
    before = [(child, child.training) for child in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for child, flag in before:
            child.training = flag

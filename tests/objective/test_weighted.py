import pytest
import torch

from src.objective.weighted import weighted_sum


def test_every_term_counts_with_its_weight_and_gives_it_to_its_gradient() -> None:
    terms = {"a": torch.tensor(2.0, requires_grad=True), "b": torch.tensor(3.0)}
    loss = weighted_sum(terms, {"b": 0.5, "a": -4.0, "absent": 9.0})
    assert loss.item() == -6.5
    loss.backward()
    assert terms["a"].grad == -4
    with pytest.raises(KeyError):
        weighted_sum(terms, {"a": 1.0})

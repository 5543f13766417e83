import pytest
from smoothflow import registry
from smoothflow.testing import TRANSFORM_CLAUSES, check_transform
from smoothflow_sine import SineTransform


@pytest.mark.parametrize("clause", TRANSFORM_CLAUSES)
def test_it_keeps_the_contract(clause: str) -> None:
    check_transform(SineTransform, clauses=[clause])


def test_it_is_found_by_name() -> None:
    assert registry().transform("sine") is SineTransform

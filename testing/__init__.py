"""The public conformance kit: the contracts of the extension points, in executable form.

Every ``check_`` function runs all clauses of a contract and raises a `ConformanceError` that names the broken clause,
the input and the numbers; every ``examine_`` function reports what held and what did not instead. One parametrized test
holds a transform to its contract::

    @pytest.mark.parametrize("clause", TRANSFORM_CLAUSES)
    def test_contract(clause: str) -> None:
        check_transform(MyTransform, clauses=[clause])
"""

from __future__ import annotations

from ..core.errors import ConformanceError
from .engines import ENGINE_CLAUSES, check_engine, examine_engine
from .integrators import INTEGRATOR_CLAUSES, check_integrator, examine_integrator
from .layers import LAYER_CLAUSES, check_layer, examine_layer
from .potentials import POTENTIAL_CLAUSES, check_potential, examine_potential
from .report import ClauseResult, Report
from .transforms import TRANSFORM_CLAUSES, check_transform, examine_transform

__all__ = [
    "ENGINE_CLAUSES",
    "INTEGRATOR_CLAUSES",
    "LAYER_CLAUSES",
    "POTENTIAL_CLAUSES",
    "TRANSFORM_CLAUSES",
    "ClauseResult",
    "ConformanceError",
    "Report",
    "check_engine",
    "check_integrator",
    "check_layer",
    "check_potential",
    "check_transform",
    "examine_engine",
    "examine_integrator",
    "examine_layer",
    "examine_potential",
    "examine_transform",
]

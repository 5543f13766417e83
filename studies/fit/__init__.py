"""From a structure to a converged model: dynamics, a first model, rounds of refining, and a report."""

"""Numbers with their errors: estimates, reweighting, evaluation, energy conservation."""

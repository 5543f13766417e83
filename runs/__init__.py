"""What every long job shares: progress, stopping, locks, workers, random streams, settings files, provenance."""

"""Many steps with a report at the end: comparisons, demonstrations, physical examinations, figures."""

"""A study from configuration to records: presets, the stages, comparisons, tables."""

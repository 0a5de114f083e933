"""tr H and the diagonal of H: estimators, each with its error, and their records."""

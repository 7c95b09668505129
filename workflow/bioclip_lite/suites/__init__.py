"""Extra test sets, as evaluate.suites lists them: read, answered and scored."""

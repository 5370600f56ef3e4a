"""Answer which fine-tuning strategy to use, with which settings, from rules and from measured trials."""

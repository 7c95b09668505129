"""Stage index beyond the sources: which taxon a name means, which photographs look alike, and what a person reads."""

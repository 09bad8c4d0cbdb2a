"""Ranks configurations of the recommender by short trainings on a synthetic set: `foster rank`."""

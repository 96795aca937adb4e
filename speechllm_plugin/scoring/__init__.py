"""Scores of decoded text: word errors, BLEU and chrF, with everything needed to get the same figures again."""

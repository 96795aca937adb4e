"""Scores of decoded text: word errors, BLEU and chrF, with everything needed to reproduce them."""

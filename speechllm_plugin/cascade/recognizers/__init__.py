"""Speech recognisers: the whole models that the speech encoders are the first half of."""

"""Speech encoders: waveforms at 16 kHz in, feature vectors with lengths out."""

"""From files or samples to texts and times, with a trained system."""

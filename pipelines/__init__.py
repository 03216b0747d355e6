"""Everything that runs on Ray, thin: decoding, training, evaluation, tracking and the command line."""

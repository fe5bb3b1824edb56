"""What every training shares: the loop, checkpoints, options, the run folder."""

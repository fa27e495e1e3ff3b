"""Floor 5: the commands, and the stage loops that run the pipeline on Ray or in one process."""

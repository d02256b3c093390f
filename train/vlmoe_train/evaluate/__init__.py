"""How good a checkpoint is: its figures on test data, each beside what needs no learning."""

"""Floor 1: the words and rules of selling predictions. Standard library only."""

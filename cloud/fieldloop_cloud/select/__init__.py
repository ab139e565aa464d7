"""Selection: the candidates, and the choice among what was measured."""

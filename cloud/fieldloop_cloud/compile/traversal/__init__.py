"""From the rows of a table to the leaves that they reach in a forest; the entrance is `walk`."""

"""What travels between rows, wire and devices: pure functions and frozen dataclasses, standard library only."""

"""What travels between rows, wire and devices: pure functions, frozen dataclasses, standard library only."""

"""What devices send, and what they are answered: heartbeats, visits, pictures, mapping and welcome."""

"""Pure functions that decide: no I/O, no clock, no log. The stages bring the facts and write what follows."""

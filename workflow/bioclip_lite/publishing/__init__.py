"""What others can use and check: a crate of a run, and which photographs may go with it."""

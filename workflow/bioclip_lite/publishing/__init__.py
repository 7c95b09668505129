"""What others can use and check: a crate of a run, the teacher cache as a data set, and what may be published."""

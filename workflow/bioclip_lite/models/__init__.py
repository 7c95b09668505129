"""Teachers and students: build, save, load, fetch, and what they cost."""

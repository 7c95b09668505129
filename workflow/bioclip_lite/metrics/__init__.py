"""Pure functions on arrays, one module per concept. Rows are images, columns leaves of the label space."""

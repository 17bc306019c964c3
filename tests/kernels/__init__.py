"""Programs in C around the kernels, without Python: one that runs a case, and one that looks for races."""

"""What both benchmarks use: cases, checks of results, timing in turns, calls of nplstm and torch, tables."""

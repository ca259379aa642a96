"""Deadlines, turns within a node, histograms and books; pure, because time is an argument."""

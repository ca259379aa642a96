"""What tests of flowbridge and of its transports, codecs and operators need: clocks, faults, clauses."""

"""Load generators, peers and the sample fleet."""

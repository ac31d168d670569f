//! Reads a config, builds the parts by name, runs.

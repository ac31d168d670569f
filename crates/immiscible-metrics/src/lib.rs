//! Honest quality numbers: sliced Wasserstein distance, nearest-neighbour coverage, coupling summaries.

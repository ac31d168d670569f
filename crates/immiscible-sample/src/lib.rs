//! Walks a network from noise to data: sampler loop, guidance and other middleware.

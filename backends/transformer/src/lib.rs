//! The decoder, written once over differentiable tensor operations.

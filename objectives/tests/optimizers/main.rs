//! Optimizers against reference implementations.

mod goldens;

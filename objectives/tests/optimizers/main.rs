//! Optimizers against reference implementations, their contract, and the border.

mod border;
mod contract;
mod goldens;

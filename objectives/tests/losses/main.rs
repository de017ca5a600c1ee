//! What every registered objective must hold to, and TRL's figures as an outside referee.

mod batches;
mod goldens;

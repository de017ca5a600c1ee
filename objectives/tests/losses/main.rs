//! What every registered objective must hold to, and TRL's figures as an outside referee.

mod batches;
mod border;
mod configs;
mod extremes;
mod goldens;
mod gradients;
mod guide;
mod literature;
mod mix;
mod properties;
mod snapshots;
mod specimens;

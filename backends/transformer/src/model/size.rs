//! Whether a model fits into memory. Checked before anything is allocated: an allocation that the system cannot back
//! ends the program, or fills the machine.

use spo_api::{Error, Result};

use crate::decoder::Decoder;
use crate::engine::Memory;
use crate::parameters::{Id, Kept, Spec};

/// Checks that the parameters, and the gradient of those that are trained, fit into `memory`. `origin` names the
/// configuration in the error.
pub(super) fn check<M: Memory>(
    memory: &M,
    decoder: &Decoder,
    kept: impl Fn(Id, &Spec) -> Kept,
    origin: &str,
) -> Result<()> {
    let compute = if memory.dtype() == "f32" { 4 } else { 2 };
    let bytes = |(id, spec): (Id, &Spec)| {
        let each = match kept(id, spec) {
            Kept::Trained => 8,
            Kept::Frozen => compute,
            Kept::Half => 2,
            Kept::Blocks(kind) => return spec.bytes_in(kind) as u128,
        };
        elements(spec).saturating_mul(each)
    };
    let [adapter, base] = [true, false].map(|adapter| {
        let specs =
            || decoder.specs.iter().enumerate().filter(move |(_, spec)| spec.role.of_adapter() == adapter);
        let sum = |sum: u128, n: u128| sum.saturating_add(n);
        (specs().map(|(_, spec)| elements(spec)).fold(0, sum), specs().map(bytes).fold(0, sum))
    });
    // Beyond this, lengths cannot be counted.
    let most = u128::from(memory.capacity().unwrap_or(i64::MAX as u64));
    if base.1.saturating_add(adapter.1) <= most {
        return Ok(());
    }
    let gib = |bytes: u128| bytes as f64 / f64::from(1 << 30);
    let (what, (parameters, bytes)) = if adapter.1 > base.1 {
        let rank = decoder.adapted.iter().map(|(_, low_rank)| low_rank.rank).max().unwrap_or(0);
        (format!("the adapter's rank, {rank}, makes"), adapter)
    } else {
        let sizes = decoder.architecture.sizes();
        let sizes: Vec<String> = sizes.into_iter().map(|(key, size)| format!("`{key}` = {size}")).collect();
        (format!("{origin}: {} make", sizes.join(", ")), base)
    };
    Err(Error::Model(format!(
        "{what} {parameters} parameters. They take {:.1} GiB in memory, where {:.1} GiB are all there is",
        gib(bytes),
        gib(most)
    )))
}

/// Elements of a parameter, which may be more than can be counted in a `usize`.
fn elements(spec: &Spec) -> u128 {
    spec.shape.iter().fold(1, |n: u128, &side| n.saturating_mul(side as u128))
}

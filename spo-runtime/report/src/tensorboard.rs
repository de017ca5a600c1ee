//! TensorBoard event files: records of protocol buffers, each with a masked checksum.
//!
//! A record is its length (u64), the length's checksum, the data, the data's checksum (u32), all little
//! endian; a checksum is CRC-32C, rotated and shifted by a constant. The data are `Event` messages of
//! tensorflow/core/util/event.proto.

use std::path::PathBuf;

use crc::{CRC_32_ISCSI, Crc};

use crate::load::{Run, Stage};
use crate::stats::mean;

/// The name of an event file. TensorBoard knows it by its beginning.
pub const FILE: &str = "events.out.tfevents.0000000000.spo";

/// An event file for each stage of each run, with its path. All wall times are 0, because runs record none.
pub fn files(runs: &[Run]) -> Vec<(PathBuf, Vec<u8>)> {
    let stages = runs.iter().flat_map(|run| run.stages.iter().map(move |stage| (run, stage)));
    let file = |(run, stage): (&Run, &Stage)| {
        // A label may be a path.
        let place: PathBuf =
            [run.label.trim_matches('/').replace('/', "-"), stage.name.clone()].iter().collect();
        (place.join(FILE), events(stage))
    };
    stages.map(file).collect()
}

/// All metrics of a stage, and the means of its probes.
fn events(stage: &Stage) -> Vec<u8> {
    let mut scalars: Vec<(f64, String, f64)> = Vec::new();
    for (name, curve) in &stage.curves {
        scalars.extend(curve.iter().map(|(step, value)| (*step, name.clone(), *value)));
    }
    for line in &stage.evolution {
        let answers = line.answers().into_iter().filter_map(|(name, values)| {
            let known: Vec<f64> = values.iter().copied().flatten().collect();
            (!known.is_empty()).then(|| (name, mean(&known)))
        });
        let others = [("displaced", line.displaced), ("entropy", line.entropy), ("lower", line.lower)];
        let all = answers.chain(others);
        scalars.extend(all.map(|(name, value)| (line.step as f64, format!("probes/{name}"), value)));
    }
    scalars.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut bytes = version();
    for (step, tag, value) in scalars {
        bytes.extend(scalar(step as u64, &tag, value as f32));
    }
    bytes
}

/// The record that every file begins with.
pub fn version() -> Vec<u8> {
    let mut event = Vec::new();
    field(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// The record of a figure after so many steps: `Event { step, summary: Summary { value: [Value { tag, simple_value }] } }`. The wall time is not written: in
/// protobuf, a field that is absent is 0.
pub fn scalar(step: u64, tag: &str, value: f32) -> Vec<u8> {
    let mut inner = Vec::new();
    field(&mut inner, 1, tag.as_bytes());
    inner.push(2 << 3 | 5);
    inner.extend(value.to_le_bytes());
    let mut summary = Vec::new();
    field(&mut summary, 1, &inner);
    let mut event = vec![2 << 3];
    varint(&mut event, step);
    field(&mut event, 5, &summary);
    record(&event)
}

/// A field of bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
    out
}

fn masked(data: &[u8]) -> u32 {
    const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn checksums_are_crc_32c() {
        // RFC 3720, B.4: the checksum of 32 bytes of zeros is aa36918a, low byte first.
        let mask = |crc: u32| crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked(&[0; 32]), mask(0x8a91_36aa));
    }

    #[test]
    fn records_are_those_of_tensorboard() {
        // Written by tensorboard 2.21's RecordWriter from the same messages.
        let version_by_it = "0f000000000000006d532b091a0d627261696e2e4576656e743a32fc985129";
        let scalar_by_it = "1200000000000000241f642510ac022a0d0a0b0a046c6f7373150000003f66379925";
        assert_eq!(hex(&version()), version_by_it);
        assert_eq!(hex(&scalar(300, "loss", 0.5)), scalar_by_it);
    }
}

//! TensorBoard files that grow while a run trains.

use std::collections::BTreeMap;

use serde_json::Value;
use test_support::Place;

use crate::place;
use crate::resume::killed;

const RECIPE: &str = concat!(
    tiny!(48, 12),
    r#"
[run]
tensorboard = true

[evaluation]
every = 5

[checkpoint]
every = 4
minutes = 0

[[stage]]
name = "sft"
objective = "sft"
steps = 12
batch_size = 16
optimizer = { lr = 3e-3 }

[[stage]]
name = "align"
objective = "dpo"
steps = 12
batch_size = 8
optimizer = { lr = 1e-3 }
"#
);

/// CRC-32C, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first().unwrap();
        (value, shift, *bytes) = (value | u64::from(byte & 0x7f) << shift, shift + 7, rest);
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

/// The fields of a message: number, and either an integer or bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let length = match key & 7 {
            0 => {
                fields.push((key >> 3, varint(&mut message), &[][..]));
                continue;
            }
            2 => varint(&mut message) as usize,
            5 => 4,
            kind => panic!("wire type {kind}"),
        };
        let (bytes, rest) = message.split_at(length);
        fields.push((key >> 3, 0, bytes));
        message = rest;
    }
    fields
}

/// The figures in an event file, in order: step, tag, value.
fn read(place: &Place, run: &str, stage: &str) -> Vec<(u64, String, f32)> {
    let path = place.path(&format!("{run}/tensorboard/{stage}/events.out.tfevents.0000000000.spo"));
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &*bytes;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(number(&rest[8..12]), checksum(&rest[..8]));
        let (data, after) = rest[12..].split_at(length);
        assert_eq!(number(&after[..4]), checksum(data));
        rest = &after[4..];
        let event = fields(data);
        let step = event.iter().find(|field| field.0 == 2).map_or(0, |field| field.1);
        for (_, _, summary) in event.iter().filter(|field| field.0 == 5) {
            for (_, _, value) in fields(summary) {
                let value = fields(value);
                let tag = String::from_utf8(value[0].2.to_vec()).unwrap();
                events.push((step, tag, f32::from_le_bytes(value[1].2.try_into().unwrap())));
            }
        }
    }
    events
}

/// What `metrics.jsonl` says of a stage.
fn expected(place: &Place, run: &str, stage: &str) -> Vec<(u64, String, f32)> {
    let lines = place.metrics(run).into_iter().filter(|line| line["stage"] == stage);
    let of = |line: Value| -> Vec<(u64, String, f32)> {
        let line: BTreeMap<String, Value> = serde_json::from_value(line).unwrap();
        let step = line["step"].as_u64().unwrap();
        let figures = line.into_iter().filter(|(name, value)| name != "step" && value.is_number());
        figures.map(|(name, value)| (step, name, value.as_f64().unwrap() as f32)).collect()
    };
    lines.flat_map(of).collect()
}

#[test]
fn events_say_what_the_metrics_say_through_kill_and_resume() {
    let place = place();
    place.write("recipe.toml", RECIPE);
    place.run(&["recipe.toml", "--quiet", "--set", "run.output=whole"]).success();
    killed(&place, "run", "00000016");
    // What was written after the checkpoint, and a record that was cut off.
    let torn = "run/tensorboard/align/events.out.tfevents.0000000000.spo";
    let mut bytes = std::fs::read(place.path(torn)).unwrap();
    bytes.extend([18, 0, 0]);
    std::fs::write(place.path(torn), bytes).unwrap();
    place.run(&["resume", "run", "--quiet"]).success();
    for stage in ["sft", "align"] {
        for run in ["whole", "run"] {
            let mut events = read(&place, run, stage);
            assert!(events.len() > 100, "{}", events.len());
            // The names in a line have another order here.
            let mut expected = expected(&place, run, stage);
            events.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            expected.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            assert_eq!(events, expected, "{run}/{stage}");
        }
        assert_eq!(read(&place, "whole", stage), read(&place, "run", stage));
    }
}

#[test]
fn a_stage_from_the_cache_has_events_and_a_replaced_run_leaves_none() {
    let place = place();
    place.write("recipe.toml", RECIPE);
    let cached = ["--quiet", "--set", "cache.stages=[\"sft\"]"];
    place.run(&[&["recipe.toml", "--set", "run.output=one"], &cached[..]].concat()).success();
    let again = ["recipe.toml", "--set", "run.output=two", "--set", "stage.align.steps=3"];
    place.run(&[&again[..], &cached].concat()).success();
    assert_eq!(read(&place, "one", "sft"), read(&place, "two", "sft"));
    // The same stages under other names, in the same folder, without events.
    place.write("other.toml", RECIPE.replace("tensorboard = true", "overwrite = true"));
    place.write("two/tensorboard/own.txt", "of a person");
    place.run(&["other.toml", "--quiet", "--set", "run.output=two"]).success();
    assert!(!place.path("two/tensorboard/sft").exists() && place.path("two/tensorboard/own.txt").exists());
}

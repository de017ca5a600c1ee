//! Blocks against llama.cpp's Python package and bitsandbytes.

use std::path::PathBuf;

use spo_gguf::{BlockType, Gguf};

fn golden() -> Gguf {
    Gguf::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/gguf/blocks.gguf")).unwrap()
}

fn values(of: &Gguf, name: &str) -> Vec<f32> {
    of.values(&of.tensors()[name]).unwrap()
}

#[test]
fn blocks_stand_for_the_same_numbers_exactly() {
    let golden = golden();
    let kinds: Vec<_> = golden.tensors().keys().filter_map(|name| name.strip_suffix(".values")).collect();
    assert_eq!(kinds.len(), 12);
    for kind in kinds {
        assert_eq!(golden.tensors()[kind].kind.name(), kind);
        let (found, expected) = (values(&golden, kind), values(&golden, &format!("{kind}.values")));
        assert!(found == expected, "{kind}");
    }
}

#[test]
fn numbers_are_rounded_as_elsewhere() {
    use BlockType::{Bf16, F16, Nf4, Q4_0, Q5_0, Q8_0};
    let golden = golden();
    let given = values(&golden, "given");
    for kind in [F16, Bf16, Q4_0, Q5_0, Q8_0, Nf4] {
        let mut found = vec![0.0; given.len()];
        kind.decode(&kind.encode(&given), &mut found);
        let expected = values(&golden, &format!("{}.rounded", kind.name()));
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-6, "{}: {worst}", kind.name());
    }
}

/// A super-block of Q8_K has a scale in f32, codes, and sums that are not needed.
#[test]
fn q8_k_has_a_scale_in_single_precision() {
    let mut block = [0u8; 292];
    block[..4].copy_from_slice(&0.3f32.to_le_bytes());
    (0..256).for_each(|i| block[4 + i] = i as u8);
    let mut values = [0.0; 256];
    BlockType::Q8K.decode(&block, &mut values);
    assert_eq!((values[5], values[200], values[255]), (0.3 * 5.0, 0.3 * -56.0, -0.3));
}

/// Root mean square of what rounding changes, for numbers of a normal distribution.
fn loss(kind: BlockType, given: &[f32]) -> f64 {
    let mut found = vec![0.0; given.len()];
    kind.decode(&kind.encode(given), &mut found);
    let squares: f64 = found.iter().zip(given).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / given.len() as f64).sqrt()
}

#[test]
fn finer_types_lose_less() {
    use BlockType::{Nf4, Q4_0, Q4K, Q5_0, Q8_0};
    // The sum of twelve uniform numbers.
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let given: Vec<f32> = (0..1 << 14).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    let losses = [Q8_0, Q5_0, Q4K, Q4_0].map(|kind| loss(kind, &given));
    println!("{losses:?} {}", loss(Nf4, &given));
    assert!(losses.is_sorted(), "{losses:?}");
    // Of 16 levels for numbers of variance 1, no code does better than 0.0975 (Max 1960), and one for each block of a
    // few numbers can hardly do worse than 0.1.
    assert!(losses[2] < 0.085 && losses[3] < 0.11 && loss(Nf4, &given) < 0.1, "{losses:?}");
    // Whatever the scale of the numbers.
    for scale in [0.1, 0.02, 50.0] {
        let scaled: Vec<f32> = given.iter().map(|x| x * scale).collect();
        for kind in [Q8_0, Q5_0, Q4K, Q4_0, Nf4] {
            let ratio = loss(kind, &scaled) / (f64::from(scale) * loss(kind, &given));
            assert!((ratio - 1.0).abs() < 0.01, "{}: {ratio}", kind.name());
        }
    }
    let zeros = vec![0.0; 256];
    for kind in [Q8_0, Q5_0, Q4K, Q4_0, Nf4] {
        assert_eq!(loss(kind, &zeros), 0.0);
    }
    let constant = vec![0.25; 256];
    assert!(loss(Q4K, &constant) < 2e-3, "{}", loss(Q4K, &constant));
}

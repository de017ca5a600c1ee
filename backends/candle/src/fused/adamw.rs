//! The optimizer: one pass over parameters, gradient and moments.

use candle_core::{DType, Result, Tensor};
use half::bf16;
use rayon::prelude::*;
use spo_transformer::AdamWStep;

use super::slices::{Stored, Values, wide, write};
use super::tasks::{GRAIN, vectorised};

/// A moment as it is kept.
trait Moment: Stored + Copy + Send + Sync {
    fn value(self) -> f32;
    /// `noise` is 16 random bits.
    fn rounded(value: f32, noise: u32) -> Self;
}

impl Moment for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }

    #[inline(always)]
    fn rounded(value: f32, _: u32) -> Self {
        value
    }
}

impl Moment for bf16 {
    #[inline(always)]
    fn value(self) -> f32 {
        wide(self)
    }

    /// What is cut off carries over with a probability of its share, so that the mean is right.
    #[inline(always)]
    fn rounded(value: f32, noise: u32) -> Self {
        bf16::from_bits((value.to_bits().wrapping_add(noise) >> 16) as u16)
    }
}

/// 32 bits that look random, of a counter (the finaliser of MurmurHash3).
#[inline(always)]
fn scramble(counter: u32) -> u32 {
    let mut x = counter;
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// What an update multiplies by, in f32.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub decay: f32,
    pub rate: f32,
    /// One over the root of the second moment's correction.
    pub root: f32,
    pub epsilon: f32,
    pub betas: [f32; 2],
    /// What the betas leave.
    pub rests: [f32; 2],
    pub scale: f32,
}

impl Factors {
    pub fn of(step: &AdamWStep) -> Self {
        let correction = step.betas.map(|beta| 1.0 - beta.powf(step.count as f64));
        Factors {
            decay: (1.0 - step.lr * step.weight_decay) as f32,
            rate: (step.lr / correction[0]) as f32,
            root: (1.0 / correction[1].sqrt()) as f32,
            epsilon: step.epsilon as f32,
            betas: step.betas.map(|beta| beta as f32),
            rests: step.betas.map(|beta| (1.0 - beta) as f32),
            scale: step.gradient_scale as f32,
        }
    }

    /// Moves a parameter, and returns its moments as they are then.
    #[inline(always)]
    pub fn update(self, p: &mut f32, g: f32, [first, second]: [f32; 2]) -> [f32; 2] {
        let g = g * self.scale;
        let first = self.betas[0] * first + self.rests[0] * g;
        let second = self.betas[1] * second + self.rests[1] * g * g;
        *p = *p * self.decay - self.rate * first / (second.sqrt() * self.root + self.epsilon);
        [first, second]
    }
}

/// AdamW as torch has it: decay before the step, epsilon outside the root of the corrected moment.
pub(super) fn adamw(into: &Tensor, gradient: &Tensor, moments: [&Tensor; 2], step: &AdamWStep) -> Result<()> {
    match moments[0].dtype() {
        DType::BF16 => step_of::<bf16>(into, gradient, moments, step),
        _ => step_of::<f32>(into, gradient, moments, step),
    }
}

fn step_of<M: Moment>(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: &AdamWStep,
) -> Result<()> {
    let factors = Factors::of(step);
    let seed = scramble(step.count as u32);
    let g = Values::of(gradient)?;
    write(into, |p: &mut [f32]| {
        write(first, |m: &mut [M]| {
            write(second, |v: &mut [M]| {
                let moments = m.par_chunks_mut(GRAIN).zip(v.par_chunks_mut(GRAIN));
                let all = p.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN)).zip(moments).enumerate();
                all.for_each(|(chunk, ((p, g), (m, v)))| {
                    let start = seed.wrapping_add((chunk * GRAIN) as u32);
                    vectorised(
                        #[inline(always)]
                        || {
                            let all = p.iter_mut().zip(g).zip(m).zip(v);
                            for (i, (((p, &g), m), v)) in all.enumerate() {
                                let [first, second] = factors.update(p, g, [m.value(), v.value()]);
                                let noise = scramble(start.wrapping_add(i as u32));
                                (*m, *v) =
                                    (M::rounded(first, noise >> 16), M::rounded(second, noise & 0xffff));
                            }
                        },
                    );
                });
                Ok(())
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// After many steps on a constant gradient the moments are the gradient and its square. Rounded to the
    /// nearest, the second would have stopped at a third of the way.
    #[test]
    fn half_moments_arrive_where_full_ones_do() {
        let n = 3 * GRAIN + 7;
        let tensor = |value: f32| Tensor::from_vec(vec![value; n], n, &Device::Cpu).unwrap();
        let half = || tensor(0.0).to_dtype(DType::BF16).unwrap();
        let (p, g, m, v) = (tensor(1.0), tensor(0.3), half(), half());
        let step = |count| AdamWStep {
            lr: 1e-4,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_scale: 1.0,
            count,
        };
        for count in 1..=4000 {
            adamw(&p, &g, [&m, &v], &step(count)).unwrap();
        }
        let mean =
            |t: &Tensor| t.to_dtype(DType::F32).unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        let (m, v) = (mean(&m), mean(&v));
        assert!((m - 0.3).abs() < 1e-3, "{m}");
        let expected = 0.09 * (1.0 - 0.999f32.powi(4000));
        assert!((v - expected).abs() < 1e-3 * expected, "{v}, expected {expected}");
        // lr a step, as the corrected ratio is 1.
        assert!((mean(&p) - 0.6).abs() < 2e-3, "{}", mean(&p));
    }
}

//! The number types that loss formulas are generic over: `f64`, and dual numbers that also carry the
//! gradient.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A real number for writing loss formulas.
///
/// The functions are implemented in numerically stable form, so a formula made of them stays finite where
/// the textbook form overflows: `log_sigmoid(-800)` is `-800`, not `-inf`.
pub trait Scalar:
    Copy
    + From<f64>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Add<f64, Output = Self>
    + Sub<f64, Output = Self>
    + Mul<f64, Output = Self>
    + Div<f64, Output = Self>
{
    /// The value without its derivatives.
    fn value(self) -> f64;

    /// Applies a function given by its value and its derivative at `self.value()`.
    ///
    /// All other functions are built on this one. Use it directly for a function that the trait lacks.
    fn chain(self, value: f64, derivative: f64) -> Self;

    /// `e^x`.
    fn exp(self) -> Self {
        let e = self.value().exp();
        self.chain(e, e)
    }

    /// `e^x - 1`, accurate near zero.
    fn exp_m1(self) -> Self {
        let x = self.value();
        self.chain(x.exp_m1(), x.exp())
    }

    /// Natural logarithm.
    fn ln(self) -> Self {
        let x = self.value();
        self.chain(x.ln(), 1.0 / x)
    }

    /// `1 / (1 + e^-x)`.
    fn sigmoid(self) -> Self {
        let s = sigmoid(self.value());
        self.chain(s, s * sigmoid(-self.value()))
    }

    /// `ln sigmoid(x)`.
    fn log_sigmoid(self) -> Self {
        let x = self.value();
        self.chain(x.min(0.0) - (-x.abs()).exp().ln_1p(), sigmoid(-x))
    }

    /// `ln(1 + e^x)`.
    fn softplus(self) -> Self {
        -(-self).log_sigmoid()
    }

    /// `ln(1 - e^x)` for `x < 0`, the log-probability of the complement.
    ///
    /// Mächler 2012: `ln_1p(-e^x)` far from zero, `ln(-expm1(x))` near it.
    fn log1mexp(self) -> Self {
        let x = self.value();
        let value = if x > -std::f64::consts::LN_2 { (-x.exp_m1()).ln() } else { (-x.exp()).ln_1p() };
        self.chain(value, 1.0 / -(-x).exp_m1())
    }

    /// `max(0, x)`. The derivative at 0 is 0, as in PyTorch.
    fn relu(self) -> Self {
        let x = self.value();
        if x > 0.0 { self } else { self.chain(if x.is_nan() { x } else { 0.0 }, 0.0) }
    }

    /// `x^2`.
    fn squared(self) -> Self {
        self * self
    }

    /// The same value without derivatives, so that the gradient treats it as a constant. Certification knows
    /// of it; a constant made by [`value`](Self::value) looks like a mistake to it.
    fn detach(self) -> Self {
        Self::from(self.value())
    }
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

impl Scalar for f64 {
    fn value(self) -> f64 {
        self
    }
    fn chain(self, value: f64, _derivative: f64) -> f64 {
        value
    }
}

/// A forward-mode dual number: a value and its partial derivatives with respect to `N` inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dual<const N: usize> {
    /// The value.
    pub value: f64,
    /// The partial derivatives.
    pub partials: [f64; N],
}

impl<const N: usize> Dual<N> {
    /// The `index`-th input: its partial derivative with respect to itself is 1, all others are 0.
    pub fn input(value: f64, index: usize) -> Self {
        let mut partials = [0.0; N];
        partials[index] = 1.0;
        Dual { value, partials }
    }
}

impl<const N: usize> From<f64> for Dual<N> {
    fn from(value: f64) -> Self {
        Dual { value, partials: [0.0; N] }
    }
}

impl<const N: usize> Scalar for Dual<N> {
    fn value(self) -> f64 {
        self.value
    }
    fn chain(self, value: f64, derivative: f64) -> Self {
        // Avoid 0 * inf = NaN: an input without influence must not make the gradient NaN.
        Dual { value, partials: self.partials.map(|p| if p == 0.0 { 0.0 } else { p * derivative }) }
    }
}

macro_rules! binary {
    ($trait:ident, $method:ident, |$a:ident, $b:ident| $value:expr, |$p:ident, $q:ident| $partial:expr) => {
        impl<const N: usize> $trait for Dual<N> {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                let ($a, $b) = (self.value, other.value);
                let mut partials = [0.0; N];
                for i in 0..N {
                    let ($p, $q) = (self.partials[i], other.partials[i]);
                    partials[i] = $partial;
                }
                Dual { value: $value, partials }
            }
        }
        impl<const N: usize> $trait<f64> for Dual<N> {
            type Output = Self;
            fn $method(self, other: f64) -> Self {
                self.$method(Dual::from(other))
            }
        }
    };
}

binary!(Add, add, |a, b| a + b, |p, q| p + q);
binary!(Sub, sub, |a, b| a - b, |p, q| p - q);
binary!(Mul, mul, |a, b| a * b, |p, q| p * b + a * q);
binary!(Div, div, |a, b| a / b, |p, q| (p - a / b * q) / b);

impl<const N: usize> Neg for Dual<N> {
    type Output = Self;
    fn neg(self) -> Self {
        Dual { value: -self.value, partials: self.partials.map(|p| -p) }
    }
}

/// A number that has moved. It carries how far, to first order, so that [`detach`](Scalar::detach) can give
/// the value before the move: a formula on such numbers holds constant what its gradient does.
#[derive(Clone, Copy)]
pub(crate) struct Held(Dual<1>);

impl Held {
    /// An input that was `at` and is `now`.
    pub(crate) fn moved(at: f64, now: f64) -> Self {
        Held(Dual { value: now, partials: [now - at] })
    }
}

impl From<f64> for Held {
    fn from(value: f64) -> Self {
        Held(Dual::from(value))
    }
}

impl Scalar for Held {
    fn value(self) -> f64 {
        self.0.value
    }
    fn chain(self, value: f64, derivative: f64) -> Self {
        Held(self.0.chain(value, derivative))
    }
    fn detach(self) -> Self {
        Held::from(self.0.value - self.0.partials[0])
    }
}

impl Neg for Held {
    type Output = Self;
    fn neg(self) -> Self {
        Held(-self.0)
    }
}

macro_rules! held {
    ($($trait:ident::$method:ident),+) => {$(
        impl $trait for Held {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                Held($trait::$method(self.0, other.0))
            }
        }
        impl $trait<f64> for Held {
            type Output = Self;
            fn $method(self, other: f64) -> Self {
                Held($trait::$method(self.0, other))
            }
        }
    )+};
}
held!(Add::add, Sub::sub, Mul::mul, Div::div);

#[cfg(test)]
mod tests {
    use super::*;

    fn derivative(f: impl Fn(Dual<1>) -> Dual<1>, x: f64) -> f64 {
        f(Dual::input(x, 0)).partials[0]
    }

    #[test]
    fn primitives_stay_finite_where_the_textbook_forms_overflow() {
        assert_eq!((-800.0f64).log_sigmoid(), -800.0);
        assert_eq!(1e4f64.log_sigmoid(), 0.0);
        assert_eq!(Scalar::softplus(1e4f64), 1e4);
        assert_eq!(derivative(Scalar::log_sigmoid, -1e4), 1.0);
        assert_eq!(derivative(Scalar::log_sigmoid, 1e4), 0.0);
        assert_eq!(derivative(Scalar::sigmoid, -1e4), 0.0);
        assert!((-1e-300f64).log1mexp().is_finite());
        assert_eq!((-800.0f64).log1mexp(), 0.0 - (-800.0f64).exp());
    }

    #[test]
    fn dual_derivatives_agree_with_central_differences() {
        type Function = (&'static str, fn(Dual<1>) -> Dual<1>, &'static [f64]);
        let functions: [Function; 10] = [
            ("exp", Scalar::exp, &[-3.0, 0.0, 2.0]),
            ("exp_m1", Scalar::exp_m1, &[-3.0, 0.0, 2.0]),
            ("ln", Scalar::ln, &[0.1, 1.0, 7.0]),
            ("sigmoid", Scalar::sigmoid, &[-30.0, -1.0, 0.0, 4.0]),
            ("log_sigmoid", Scalar::log_sigmoid, &[-30.0, -1.0, 0.0, 4.0]),
            ("softplus", Scalar::softplus, &[-30.0, -1.0, 0.0, 4.0]),
            ("log1mexp", Scalar::log1mexp, &[-30.0, -1.0, -0.5, -0.1]),
            ("relu", Scalar::relu, &[-2.0, 3.0]),
            ("squared", Scalar::squared, &[-2.0, 3.0]),
            ("quotient", |x| (x * x + 1.0) / (x - 10.0), &[-2.0, 3.0]),
        ];
        for (name, f, points) in functions {
            for &x in points {
                let h = 1e-6;
                let difference = (f(Dual::from(x + h)).value - f(Dual::from(x - h)).value) / (2.0 * h);
                let exact = derivative(f, x);
                assert!(
                    (exact - difference).abs() <= 1e-6 * (1.0 + exact.abs()),
                    "{name}({x}): {exact} {difference}"
                );
            }
        }
    }
}

use crate::svg::{Anchor, Svg};

/// Maps values to positions along an axis.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// A scale over all of these values, with a margin, between two positions in the drawing.
    pub fn over(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let finite = values.into_iter().filter(|x| x.is_finite());
        let (mut low, mut high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low < 1e-12 * (1.0 + high.abs()) {
            let air = if high == 0.0 { 1.0 } else { 0.5 * high.abs() };
            (low, high) = (low - air, high + air);
        }
        let air = 0.04 * (high - low);
        Scale { low: low - air, high: high + air, from, to }
    }

    /// A scale with given ends.
    pub fn exactly(low: f64, high: f64, from: f64, to: f64) -> Self {
        Scale { low, high: if high > low { high } else { low + 1.0 }, from, to }
    }

    /// The position of a value in the drawing.
    pub fn at(&self, x: f64) -> f64 {
        self.from + (x - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Whether a value is on the scale.
    pub fn shows(&self, x: f64) -> bool {
        (self.low..=self.high).contains(&x)
    }

    /// Round numbers on the scale, about `count` of them, with their labels.
    pub fn ticks(&self, count: f64) -> Vec<(f64, String)> {
        let rough = (self.high - self.low) / count;
        let power = 10f64.powf(rough.log10().floor());
        let wide_enough = |step: &f64| *step >= rough / 1.4;
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(wide_enough).unwrap_or(rough);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|i| i as f64 * step).map(|x| (x, number(x, decimals))).collect()
    }
}

/// A number as a label: with a proper minus sign, and with an exponent where there would be many zeros.
fn number(x: f64, decimals: usize) -> String {
    let text = if decimals > 4 || x.abs() >= 1e6 && x != 0.0 {
        if x == 0.0 { "0".to_owned() } else { format!("{x:.1e}") }
    } else {
        format!("{x:.decimals$}")
    };
    let zero = text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.');
    if zero { text.trim_start_matches('-').to_owned() } else { text.replace('-', "\u{2212}") }
}

/// How values along an axis are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// As they are.
    #[default]
    Plain,
    /// Shares, as percentages.
    Share,
    /// Whole numbers.
    Count,
}

/// The plotting area within a drawing.
pub struct Axes {
    /// Left to right.
    pub x: Scale,
    /// Bottom to top.
    pub y: Scale,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Axes {
    /// Puts two scales around an area. `from` and `to` of `x` are its left and right, those of `y` its
    /// bottom and top.
    pub fn new(x: Scale, y: Scale) -> Self {
        Axes { left: x.from, right: x.to, bottom: y.from, top: y.to, x, y }
    }

    /// The position of a point in the drawing.
    pub fn at(&self, point: (f64, f64)) -> (f64, f64) {
        (self.x.at(point.0), self.y.at(point.1))
    }

    /// Grid and ticks; of each axis its title and its unit.
    pub fn draw(&self, svg: &mut Svg, (x_title, x_unit): (&str, Unit), (y_title, y_unit): (&str, Unit)) {
        let write = |(x, text): (f64, String), unit| match unit {
            Unit::Plain | Unit::Count => text,
            Unit::Share => number(100.0 * x, 0) + "%",
        };
        for tick in self.y.ticks(5.0) {
            let y = self.y.at(tick.0);
            svg.line("grid", (self.left, y), (self.right, y));
            svg.text("tick", (self.left - 6.0, y + 4.0), Anchor::End, &write(tick, y_unit));
        }
        let whole = |tick: &(f64, String)| x_unit != Unit::Count || tick.0.fract() == 0.0;
        for mut tick in self.x.ticks(6.0).into_iter().filter(whole) {
            if x_unit == Unit::Count {
                tick.1 = number(tick.0, 0);
            }
            let x = self.x.at(tick.0);
            svg.line("grid", (x, self.bottom), (x, self.bottom + 4.0));
            svg.text("tick", (x, self.bottom + 16.0), Anchor::Middle, &write(tick, x_unit));
        }
        svg.line("rule", (self.left, self.bottom), (self.right, self.bottom));
        let middle = ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0);
        svg.text("axis-title", (middle.0, self.bottom + 34.0), Anchor::Middle, x_title);
        svg.upright("axis-title", (13.0, middle.1), y_title);
    }

    /// The dashed line on which both coordinates are equal, as far as it is visible.
    pub fn diagonal(&self, svg: &mut Svg) {
        let (low, high) = (self.x.low.max(self.y.low), self.x.high.min(self.y.high));
        if low < high {
            svg.line("dashed", self.at((low, low)), self.at((high, high)));
        }
    }

    /// A horizontal line across the area, if it is visible.
    pub fn level(&self, svg: &mut Svg, class: &str, y: f64) {
        if self.y.shows(y) {
            svg.line(class, (self.left, self.y.at(y)), (self.right, self.y.at(y)));
        }
    }
}

/// Moves overlapping labels apart, as little as possible, and keeps their order. Takes and returns heights in the
/// drawing.
pub fn spread(wanted: &[f64], gap: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut placed = vec![0.0; wanted.len()];
    let mut floor = top;
    for &i in &order {
        placed[i] = wanted[i].max(floor);
        floor = placed[i] + gap;
    }
    let mut ceiling = bottom;
    for &i in order.iter().rev() {
        placed[i] = placed[i].min(ceiling);
        ceiling = placed[i] - gap;
    }
    placed
}

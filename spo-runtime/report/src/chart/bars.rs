use super::axes::{Axes, Scale};
use crate::svg::{Anchor, COLOURS, Svg};

/// A bar from 0 to a value.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Its label.
    pub label: String,
    /// Its colour.
    pub colour: usize,
    /// Its length.
    pub value: f64,
    /// The range of the values that it is the mean of.
    pub range: (f64, f64),
}

const WIDTH: f64 = 520.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = WIDTH - 64.0;
const ROW: f64 = 30.0;
const TOP: f64 = 34.0;

/// Draws horizontal bars with their ranges and values.
pub fn bars(title: &str, x_title: &str, all: &[Bar]) -> Svg {
    let bottom = TOP + ROW * all.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 46.0, title);
    svg.text("title", (10.0, 18.0), Anchor::Start, title);
    let reach = all.iter().flat_map(|bar| [0.0, bar.value, bar.range.0, bar.range.1]);
    let axes = Axes::new(Scale::over(reach, LEFT, RIGHT), Scale::exactly(0.0, 1.0, bottom, TOP));
    for (x, text) in axes.x.ticks(6.0) {
        let x = axes.x.at(x);
        svg.line("grid", (x, TOP), (x, bottom));
        svg.text("tick", (x, bottom + 16.0), Anchor::Middle, &text);
    }
    svg.text("axis-title", ((LEFT + RIGHT) / 2.0, bottom + 34.0), Anchor::Middle, x_title);
    let zero = axes.x.at(0.0);
    for (i, bar) in all.iter().enumerate() {
        let (y, end) = (TOP + ROW * i as f64, axes.x.at(bar.value));
        svg.text("", (LEFT - 10.0, y + ROW / 2.0 + 4.0), Anchor::End, &bar.label);
        let colour = bar.colour % COLOURS;
        svg.rect(&format!("f{colour}"), (zero.min(end), y + 6.0), ((end - zero).abs(), ROW - 12.0));
        let range = (axes.x.at(bar.range.0), axes.x.at(bar.range.1));
        svg.line("whisker", (range.0, y + ROW / 2.0), (range.1, y + ROW / 2.0));
        let value = format!("{:+.2}", bar.value).replace('-', "\u{2212}");
        svg.text("", (WIDTH - 6.0, y + ROW / 2.0 + 4.0), Anchor::End, &value);
    }
    svg.line("rule", (zero, TOP), (zero, bottom));
    svg
}

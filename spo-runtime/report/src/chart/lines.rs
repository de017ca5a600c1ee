use super::axes::{Axes, Scale, Unit, spread};
use crate::svg::{Anchor, COLOURS, Svg};

/// A curve.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// The label at its end.
    pub label: String,
    /// Its colour.
    pub colour: usize,
    /// Steps and values.
    pub points: Vec<(f64, f64)>,
    /// Steps with the ends of a band around the curve.
    pub band: Vec<(f64, f64, f64)>,
    /// Further curves, drawn faintly and without labels.
    pub thin: Vec<Vec<(f64, f64)>>,
}

/// A chart of curves.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// Its title.
    pub title: String,
    /// Title of the horizontal axis; training steps by default.
    pub x: Option<String>,
    /// Title of the vertical axis, with its unit.
    pub y: String,
    /// Whether values are shares.
    pub share: bool,
    /// A level to mark.
    pub level: Option<f64>,
    /// The curves.
    pub series: Vec<Series>,
}

/// Curves with fewer points are dotted.
const SPARSE: usize = 5;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 66.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = HEIGHT - 46.0;

/// Width of the space for labels at the right, for texts of at most this many characters.
fn right<'a>(labels: impl Iterator<Item = &'a str>) -> f64 {
    let longest = labels.map(|label| label.chars().count()).max().unwrap_or(0);
    WIDTH - 14.0 - 6.6 * longest.min(26) as f64
}

/// Draws curves, each labelled where it ends.
pub fn lines(chart: &Lines) -> Svg {
    let mut svg = Svg::new(WIDTH, HEIGHT, &chart.title);
    let right = right(chart.series.iter().map(|s| s.label.as_str()));
    let bands = chart.series.iter().flat_map(|s| s.band.iter().flat_map(|b| [b.1, b.2]));
    let values =
        chart.series.iter().flat_map(|s| s.points.iter().chain(s.thin.iter().flatten()).map(|p| p.1));
    let steps = chart.series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
    let (first, last) = steps.fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), x| (a.min(x), b.max(x)));
    let axes = Axes::new(
        Scale::exactly(first.min(last), last, LEFT, right),
        Scale::over(values.chain(bands).chain(chart.level), BOTTOM, TOP),
    );
    svg.text("title", (LEFT, 18.0), Anchor::Start, &chart.title);
    let unit = if chart.share { Unit::Share } else { Unit::Plain };
    let x_title = chart.x.as_deref().unwrap_or("training step");
    let x_unit = if chart.x.is_some() { Unit::Plain } else { Unit::Count };
    axes.draw(&mut svg, (x_title, x_unit), (&chart.y, unit));
    if let Some(level) = chart.level {
        axes.level(&mut svg, "dashed", level);
    }
    for series in &chart.series {
        let colour = series.colour % COLOURS;
        let there = series.band.iter().map(|b| axes.at((b.0, b.2)));
        let back = series.band.iter().rev().map(|b| axes.at((b.0, b.1)));
        if series.band.len() > 1 {
            svg.shape(&format!("band f{colour}"), &there.chain(back).collect::<Vec<_>>());
        }
        for thin in &series.thin {
            svg.curve(&format!("thin s{colour}"), &thin.iter().map(|p| axes.at(*p)).collect::<Vec<_>>());
        }
    }
    let ends: Vec<f64> =
        chart.series.iter().map(|s| s.points.last().map_or(TOP, |p| axes.y.at(p.1))).collect();
    let heights = spread(&ends, 14.0, TOP, BOTTOM);
    for (series, height) in chart.series.iter().zip(heights) {
        let colour = series.colour % COLOURS;
        let points: Vec<_> = series.points.iter().map(|p| axes.at(*p)).collect();
        // A few points are marked as such: what lies between them was not measured.
        let class = if points.len() < SPARSE { "curve sparse" } else { "curve" };
        svg.curve(&format!("{class} s{colour}"), &points);
        for (at, (step, value)) in points.iter().zip(&series.points).filter(|_| points.len() < SPARSE) {
            let tip = format!("{}: {value:.4} after step {step}", series.label);
            svg.dot(&format!("f{colour} s{colour}"), *at, 3.0, &tip);
        }
        if let Some(end) = points.last() {
            svg.text(
                &format!("f{colour}"),
                (end.0.max(right) + 6.0, height + 4.0),
                Anchor::Start,
                &short(&series.label),
            );
        }
    }
    svg
}

/// Draws shares of a whole as stacked areas. All series have the same steps.
pub fn areas(chart: &Lines) -> Svg {
    let mut svg = Svg::new(WIDTH, HEIGHT, &chart.title);
    let right = right(chart.series.iter().map(|s| s.label.as_str()));
    let steps: Vec<f64> = chart.series.first().map_or(Vec::new(), |s| s.points.iter().map(|p| p.0).collect());
    let (first, last) = (steps.first().copied().unwrap_or(0.0), steps.last().copied().unwrap_or(1.0));
    let axes = Axes::new(Scale::exactly(first, last, LEFT, right), Scale::exactly(0.0, 1.0, BOTTOM, TOP));
    svg.text("title", (LEFT, 18.0), Anchor::Start, &chart.title);
    axes.draw(&mut svg, ("training step", Unit::Count), (&chart.y, Unit::Share));
    let mut floor = vec![0.0; steps.len()];
    let mut middles = Vec::new();
    for series in &chart.series {
        let ceiling: Vec<f64> = floor.iter().zip(&series.points).map(|(low, p)| low + p.1).collect();
        let there = steps.iter().zip(&ceiling).map(|(x, y)| axes.at((*x, *y)));
        let back = steps.iter().zip(&floor).rev().map(|(x, y)| axes.at((*x, *y)));
        let colour = series.colour % COLOURS;
        svg.shape(&format!("area f{colour}"), &there.chain(back).collect::<Vec<_>>());
        let ends = (floor.last().copied().unwrap_or(0.0), ceiling.last().copied().unwrap_or(0.0));
        middles.push(axes.y.at((ends.0 + ends.1) / 2.0));
        floor = ceiling;
    }
    for (series, height) in chart.series.iter().zip(spread(&middles, 14.0, TOP + 4.0, BOTTOM)) {
        let colour = series.colour % COLOURS;
        svg.text(&format!("f{colour}"), (right + 6.0, height + 4.0), Anchor::Start, &short(&series.label));
    }
    svg
}

/// A label that fits beside a chart.
pub(super) fn short(label: &str) -> String {
    match label.char_indices().nth(26) {
        Some((end, _)) => format!("{}\u{2026}", &label[..end]),
        None => label.to_owned(),
    }
}

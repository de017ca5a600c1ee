use super::axes::{Axes, Scale, Unit, spread};
use super::lines::short;
use crate::svg::{Anchor, COLOURS, Svg};

/// A chart of pairs by the changes of their two answers.
#[derive(Clone, Debug, Default)]
pub struct Quadrants {
    /// Its title.
    pub title: String,
    /// Change of s_w and of s_l, in nats, with a tooltip for the pair.
    pub pairs: Vec<(f64, f64, String)>,
}

const SIDE: f64 = 400.0;
const LEFT: f64 = 66.0;
const TOP: f64 = 34.0;
/// Height of a line of labels above or below the plotting area, where they cover no dot.
const LABELS: f64 = 20.0;

/// Draws pairs into the four quadrants of (change of s_w, change of s_l).
pub fn quadrants(chart: &Quadrants) -> Svg {
    let (width, right, top, bottom) = (SIDE + 30.0, SIDE + 14.0, TOP + LABELS, SIDE - 46.0 + LABELS);
    let mut svg = Svg::new(width, SIDE + 2.0 * LABELS, &chart.title);
    let axes = Axes::new(
        Scale::over(chart.pairs.iter().map(|p| p.0).chain([-0.1, 0.1]), LEFT, right),
        Scale::over(chart.pairs.iter().map(|p| p.1).chain([-0.1, 0.1]), bottom, top),
    );
    let (zero_x, zero_y) = axes.at((0.0, 0.0));
    svg.text("title", (LEFT, 18.0), Anchor::Start, &chart.title);
    svg.rect("wash", (LEFT, top), (zero_x - LEFT, bottom - top));
    axes.draw(
        &mut svg,
        ("change of the preferred answer's log-prob, nats", Unit::Plain),
        ("change of the dispreferred's, nats", Unit::Plain),
    );
    svg.line("rule", (zero_x, top), (zero_x, bottom));
    svg.line("rule", (LEFT, zero_y), (right, zero_y));
    // Below the diagonal the margin grew.
    axes.diagonal(&mut svg);
    for (w, l, tip) in &chart.pairs {
        let colour = if *w < 0.0 { 1 } else { 0 };
        svg.dot(&format!("f{colour} s{colour}"), axes.at((*w, *l)), 3.0, tip);
    }
    let share = |inside: &dyn Fn(f64, f64) -> bool| {
        let count = chart.pairs.iter().filter(|(w, l, _)| inside(*w, *l)).count();
        format!("{:.0}%", 100.0 * count as f64 / chart.pairs.len().max(1) as f64)
    };
    let (above, below) = (top - 6.0, bottom + 52.0);
    for (name, x, y, anchor, share) in [
        ("both fell", LEFT, below, Anchor::Start, share(&|w, l| w < 0.0 && l < 0.0)),
        ("reversed", LEFT, above, Anchor::Start, share(&|w, l| w < 0.0 && l >= 0.0)),
        ("as wanted", right, below, Anchor::End, share(&|w, l| w >= 0.0 && l < 0.0)),
        ("both rose", right, above, Anchor::End, share(&|w, l| w >= 0.0 && l >= 0.0)),
    ] {
        svg.text("", (x, y), anchor, &format!("{name} {share}"));
    }
    svg
}

/// Points of one kind.
#[derive(Clone, Debug, Default)]
pub struct ScatterGroup {
    /// Their label.
    pub label: String,
    /// Their colour.
    pub colour: usize,
    /// Their coordinates.
    pub points: Vec<(f64, f64)>,
}

/// A chart of points near the line on which both coordinates are equal.
#[derive(Clone, Debug, Default)]
pub struct Scatter {
    /// Its title.
    pub title: String,
    /// Title of the horizontal axis, with its unit.
    pub x: String,
    /// Title of the vertical axis, with its unit.
    pub y: String,
    /// The points.
    pub groups: Vec<ScatterGroup>,
}

/// Draws points near the diagonal.
pub fn scatter(chart: &Scatter) -> Svg {
    let (width, right, top, bottom) = (SIDE + 30.0, SIDE + 14.0, TOP + LABELS, SIDE - 46.0 + LABELS);
    let mut svg = Svg::new(width, SIDE + LABELS, &chart.title);
    let all = || chart.groups.iter().flat_map(|g| &g.points);
    let axes =
        Axes::new(Scale::over(all().map(|p| p.0), LEFT, right), Scale::over(all().map(|p| p.1), bottom, top));
    svg.text("title", (LEFT, 18.0), Anchor::Start, &chart.title);
    axes.draw(&mut svg, (&chart.x, Unit::Plain), (&chart.y, Unit::Plain));
    axes.diagonal(&mut svg);
    axes.level(&mut svg, "grid", 0.0);
    let mut x = LEFT;
    for group in &chart.groups {
        let colour = group.colour % COLOURS;
        for point in &group.points {
            let tip = format!("{}: {:.5} foretold, {:.5} came", group.label, point.0, point.1);
            svg.dot(&format!("f{colour} s{colour}"), axes.at(*point), 2.5, &tip);
        }
        svg.dot(&format!("f{colour} s{colour}"), (x + 4.0, top - 10.0), 4.0, &group.label);
        svg.text("", (x + 14.0, top - 6.0), Anchor::Start, &group.label);
        x += 34.0 + 6.8 * group.label.chars().count() as f64;
    }
    svg
}

/// An arm in a chart of arms.
#[derive(Clone, Debug)]
pub struct ParetoPoint {
    /// Its name.
    pub label: String,
    /// Its colour.
    pub colour: usize,
    /// Its coordinates, both shares: the one that should be small, and the one that should be large.
    pub at: (f64, f64),
    /// The interval of the first coordinate.
    pub x_interval: Option<(f64, f64)>,
    /// The interval of the second coordinate.
    pub y_interval: Option<(f64, f64)>,
}

/// A chart of arms by two competing figures.
#[derive(Clone, Debug, Default)]
pub struct Pareto {
    /// Its title.
    pub title: String,
    /// Title of the axis that should be small.
    pub x: String,
    /// Title of the axis that should be large.
    pub y: String,
    /// The arms.
    pub points: Vec<ParetoPoint>,
}

/// Draws arms with their intervals, and the Pareto front.
pub fn pareto(chart: &Pareto) -> Svg {
    let (width, height) = (560.0, 340.0);
    let longest = chart.points.iter().map(|p| p.label.chars().count()).max().unwrap_or(0);
    let (right, bottom) = (width - 20.0 - 6.8 * longest.min(26) as f64, height - 46.0);
    let mut svg = Svg::new(width, height, &chart.title);
    let reach = |value: f64, interval: Option<(f64, f64)>| {
        let (low, high) = interval.unwrap_or((value, value));
        [low, high]
    };
    let xs = chart.points.iter().flat_map(|p| reach(p.at.0, p.x_interval));
    let ys = chart.points.iter().flat_map(|p| reach(p.at.1, p.y_interval));
    let axes = Axes::new(Scale::over(xs, LEFT, right), Scale::over(ys, bottom, TOP));
    svg.text("title", (LEFT, 18.0), Anchor::Start, &chart.title);
    axes.draw(&mut svg, (&chart.x, Unit::Share), (&chart.y, Unit::Share));
    let mut front: Vec<(f64, f64)> =
        chart.points.iter().map(|p| p.at).filter(|p| !beaten(*p, chart)).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    svg.curve("dashed curve", &front.iter().map(|p| axes.at(*p)).collect::<Vec<_>>());
    let wanted: Vec<f64> = chart.points.iter().map(|p| axes.y.at(p.at.1)).collect();
    let heights = spread(&wanted, 14.0, TOP, bottom);
    // The labels lie under the dots and crosses of all arms, and hide none of them.
    for (point, height) in chart.points.iter().zip(heights) {
        let (class, x) = (format!("f{}", point.colour % COLOURS), axes.x.at(point.at.0));
        svg.text(&class, (x + 9.0, height + 4.0), Anchor::Start, &short(&point.label));
    }
    for point in &chart.points {
        let (colour, (x, y)) = (point.colour % COLOURS, axes.at(point.at));
        if let Some((low, high)) = point.x_interval {
            svg.line(&format!("s{colour}"), (axes.x.at(low), y), (axes.x.at(high), y));
        }
        if let Some((low, high)) = point.y_interval {
            svg.line(&format!("s{colour}"), (x, axes.y.at(low)), (x, axes.y.at(high)));
        }
        svg.dot(&format!("f{colour} s{colour}"), (x, y), 5.0, &point.label);
    }
    svg
}

/// Whether another arm is better in one figure and not worse in the other.
fn beaten(point: (f64, f64), chart: &Pareto) -> bool {
    let better = |other: (f64, f64)| other.0 <= point.0 && other.1 >= point.1 && other != point;
    chart.points.iter().any(|other| better(other.at))
}

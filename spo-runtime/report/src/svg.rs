//! A drawing as SVG text. Colours and fonts are CSS classes, so that the page, or the reader's dark mode, chooses
//! them.

use std::fmt::Write;

/// The styles of all classes, in light and dark. The hues are those of Okabe and Ito's palette, which colour-blind
/// readers can distinguish, adjusted for contrast.
pub const STYLE: &str = "\
:root{--paper:#fff;--ink:#1b1f24;--faint:#5c6570;--rule:#d8dde3;--grid:#eceff2;--wash:#f3f5f7;\
--c0:#0067a5;--c1:#c44e00;--c2:#00805c;--c3:#a8508a;--c4:#9a6b00;--c5:#2f8fc4;--c6:#8d96a1;--c7:#7b3fb5}\
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e6e9ed;--faint:#9aa4af;--rule:#3a424b;--grid:#252b32;\
--wash:#1c2127;--c0:#5bb3f0;--c1:#ff8a4c;--c2:#3ccf9e;--c3:#e79acb;--c4:#e8b93c;--c5:#8fd3ff;--c6:#66707b;--c7:#bf95f2}}\
svg.chart{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;background:var(--paper);max-width:100%;height:auto}\
.chart text{fill:var(--ink)}.chart .tick{fill:var(--faint);font-size:11px;font-variant-numeric:tabular-nums}\
.chart .axis-title{fill:var(--faint)}.chart .title{font-weight:600;font-size:13px}.chart .note{fill:var(--faint);font-size:11px}\
.chart .grid{stroke:var(--grid);stroke-width:1}.chart .rule{stroke:var(--faint);stroke-width:1}\
.chart .dashed{stroke:var(--faint);stroke-width:1;stroke-dasharray:4 4}.chart .wash{fill:var(--wash)}\
.chart .curve{fill:none;stroke-width:2;stroke-linejoin:round}.chart .thin{fill:none;stroke-width:1;opacity:.35}\
.chart .sparse{stroke-dasharray:2 4;stroke-width:1.5}.chart .band{opacity:.16;stroke:none}.chart .area{opacity:.85;stroke:var(--paper);stroke-width:.5}\
.chart .dot{fill-opacity:.55;stroke-width:1}.chart .whisker{stroke:var(--ink);stroke-width:1.5}\
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}\
.s6{stroke:var(--c6)}.s7{stroke:var(--c7)}\
.chart .f0,.f0{fill:var(--c0)}.chart .f1{fill:var(--c1)}.chart .f2{fill:var(--c2)}.chart .f3{fill:var(--c3)}.chart .f4{fill:var(--c4)}\
.chart .f5{fill:var(--c5)}.chart .f6{fill:var(--c6)}.chart .f7{fill:var(--c7)}";

/// The number of colours in [`STYLE`]; further series repeat them.
pub const COLOURS: usize = 8;

/// The point of a text that its position refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// A drawing, to which shapes are added.
pub struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

impl Svg {
    /// An empty drawing. The title is read out by screen readers.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        Svg { width, height, title: escape(title), body: String::new() }
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let (x1, y1, x2, y2) = (n(from.0), n(from.1), n(to.0), n(to.1));
        let _ =
            write!(self.body, "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>");
    }

    /// A line through points.
    pub fn curve(&mut self, class: &str, points: &[(f64, f64)]) {
        let _ = write!(self.body, "<polyline class=\"{class}\" points=\"{}\"/>", list(points));
    }

    /// A closed shape.
    pub fn shape(&mut self, class: &str, points: &[(f64, f64)]) {
        let _ = write!(self.body, "<polygon class=\"{class}\" points=\"{}\"/>", list(points));
    }

    /// A rectangle.
    pub fn rect(&mut self, class: &str, corner: (f64, f64), size: (f64, f64)) {
        let (x, y, w, h) = (n(corner.0), n(corner.1), n(size.0), n(size.1));
        let _ =
            write!(self.body, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"/>");
    }

    /// A disc with a tooltip.
    pub fn dot(&mut self, class: &str, at: (f64, f64), radius: f64, tip: &str) {
        let (x, y, r, tip) = (n(at.0), n(at.1), n(radius), escape(tip));
        let _ = write!(
            self.body,
            "<circle class=\"dot {class}\" cx=\"{x}\" cy=\"{y}\" r=\"{r}\"><title>{tip}</title></circle>"
        );
    }

    /// A line of text.
    pub fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y, text) = (n(at.0), n(at.1), escape(text));
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// A line of text that reads upwards.
    pub fn upright(&mut self, class: &str, at: (f64, f64), text: &str) {
        let (x, y, text) = (n(at.0), n(at.1), escape(text));
        let _ = write!(
            self.body,
            "<text class=\"{class}\" transform=\"translate({x} {y}) rotate(-90)\" text-anchor=\"middle\">{text}</text>"
        );
    }

    /// The drawing as part of a page that includes [`STYLE`].
    pub fn inline(&self) -> String {
        self.wrapped("", "")
    }

    /// The drawing as a separate file.
    pub fn standalone(&self) -> String {
        let style = format!("<style>{STYLE}</style>");
        self.wrapped(" xmlns=\"http://www.w3.org/2000/svg\"", &style) + "\n"
    }

    fn wrapped(&self, namespace: &str, style: &str) -> String {
        let Svg { width, height, title, body } = self;
        format!(
            "<svg{namespace} class=\"chart\" role=\"img\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\"><title>{title}</title>{style}{body}</svg>"
        )
    }
}

/// Text as markup: special characters are escaped, and characters that XML cannot contain are replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // XML cannot contain these, not even escaped.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate, to a hundredth of a pixel.
fn n(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

fn list(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{},{}", n(*x), n(*y))).collect::<Vec<_>>().join(" ")
}

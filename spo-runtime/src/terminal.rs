//! What fits a terminal: a line that is drawn again and again, and tables.

use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use console::{Term, measure_text_width, truncate_str};

/// The width of the terminal that standard output goes to; `None` if it is a file or a pipe.
fn columns() -> Option<usize> {
    let terminal = Term::stdout();
    terminal.is_term().then(|| usize::from(terminal.size().1)).filter(|columns| *columns > 0)
}

/// Gives a table of texts the width of the terminal, so that they are broken within their columns.
pub(crate) fn fit(table: &mut Table) {
    if let Some(columns) = columns() {
        table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
    }
}

/// A table of figures. The first `names` columns are texts, the others numbers. In a terminal that is too narrow for
/// it, a list: a figure on each line.
pub(crate) fn figures(header: &[String], rows: &[Vec<String>], names: usize) -> String {
    figures_within(header, rows, names, columns())
}

fn figures_within(header: &[String], rows: &[Vec<String>], names: usize, columns: Option<usize>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let text = table.to_string();
    let fits = |columns: usize| text.lines().all(|line| measure_text_width(line) <= columns);
    if columns.is_none_or(fits) {
        return text;
    }
    let indent = header.iter().skip(1).map(|title| measure_text_width(title)).max().unwrap_or(0);
    let of_row = |row: &Vec<String>| {
        let figures = header.iter().zip(row).skip(1).flat_map(|(title, cell)| {
            let titles = std::iter::once(title.as_str()).chain(std::iter::repeat(""));
            cell.lines()
                .zip(titles)
                .map(move |(line, title)| format!("  {title:indent$}  {line}"))
                .collect::<Vec<_>>()
        });
        std::iter::once(row[0].clone()).chain(figures).collect::<Vec<_>>().join("\n")
    };
    rows.iter().map(of_row).collect::<Vec<_>>().join("\n")
}

/// The least width for two texts beside each other.
const WIDE: usize = 100;

/// Whether standard output is a terminal in which two texts fit beside each other.
pub(crate) fn is_wide() -> bool {
    columns().is_some_and(|columns| columns >= WIDE)
}

/// Two texts with their titles beside each other.
pub(crate) fn beside((left, first): &(String, String), (right, second): &(String, String)) -> String {
    // A line is between the two.
    let half = u16::try_from((columns().unwrap_or(WIDE) - 1) / 2).unwrap_or(u16::MAX);
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([left, right]).add_row([first, second]);
    fit(&mut table);
    table.set_constraints([
        ColumnConstraint::Absolute(Width::Fixed(half)),
        ColumnConstraint::Absolute(Width::Fixed(half)),
    ]);
    table.to_string()
}

/// The shortest time between two drawings of a line.
const PAUSE: Duration = Duration::from_millis(100);

/// A line at the bottom of the terminal that is drawn again and again.
pub(crate) struct Line {
    terminal: Term,
    text: String,
    /// The width of what is on the screen; 0 if nothing is.
    shown: usize,
    drawn: Option<Instant>,
}

impl Line {
    /// A line on a terminal; `None` if it is none.
    pub(crate) fn on(terminal: Term) -> Option<Self> {
        let shows = terminal.is_term() && terminal.size().1 > 0;
        shows.then(|| Line { terminal, text: String::new(), shown: 0, drawn: None })
    }

    /// Shows a text in place of the last one, unless that was drawn a moment ago.
    pub(crate) fn set(&mut self, text: String) {
        self.text = text;
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= PAUSE) {
            self.draw();
        }
    }

    /// Removes the line while something else is printed.
    pub(crate) fn suspend(&mut self, print: impl FnOnce()) {
        self.clear();
        print();
        self.draw();
    }

    /// Shows the last text, and leaves it there.
    pub(crate) fn finish(mut self) {
        self.draw();
        let _ = self.terminal.write_line("");
        self.shown = 0;
    }

    fn draw(&mut self) {
        self.clear();
        // The last column stays empty: a terminal may go on to the next line after it.
        let text = truncate_str(&self.text, self.width() - 1, "\u{2026}");
        self.shown = measure_text_width(&text);
        let _ = self.terminal.write_str(&text);
        self.drawn = Some(Instant::now());
    }

    fn clear(&mut self) {
        // If the terminal has become narrower, it has broken the line into several.
        let broken = self.shown.saturating_sub(1) / self.width();
        let up = if broken > 0 { format!("\x1b[{broken}A") } else { String::new() };
        if self.shown > 0 {
            let _ = self.terminal.write_str(&format!("\r{up}\x1b[J"));
        }
        self.shown = 0;
    }

    fn width(&self) -> usize {
        usize::from(self.terminal.size().1).max(1)
    }
}

/// A run that fails leaves no line before its error.
impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn figures_that_are_too_wide_for_a_table_are_listed() {
        let header = texts(&["stage", "from", "exact match", "log p"]);
        let rows = [
            texts(&["sft", "init", "1.0% -> 50.0%", "-3.1"]),
            texts(&["dpo", "sft", "50.0%\nΔ +1.0", "-4.2"]),
        ];
        let table = figures_within(&header, &rows, 2, None);
        let width = table.lines().map(measure_text_width).max().unwrap();
        assert_eq!(table, figures_within(&header, &rows, 2, Some(width)));
        let list = figures_within(&header, &rows, 2, Some(width - 1));
        let lines = [
            "sft",
            "  from         init",
            "  exact match  1.0% -> 50.0%",
            "  log p        -3.1",
            "dpo",
            "  from         sft",
            "  exact match  50.0%",
            "               Δ +1.0",
            "  log p        -4.2",
        ];
        assert_eq!(list, lines.join("\n"));
    }
}

//! Reports on run folders written by these tests, number by number, so that the right report is known.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use spo_report::arms::{Over, arms};
use spo_report::figures::{CHOSEN_CHANGE, DISPLACED, EXACT_MATCH};
use spo_report::load::{Run, runs};
use spo_report::page::Page;
use spo_report::stats::Estimate;
use spo_report::{export, words};
use tempfile::TempDir;

/// The number of held-out rows, and of probes.
const ROWS: usize = 20;

/// Writes the folder of a run whose stage `align` changed the log-prob of every chosen answer by about `chosen` nats
/// and that of every rejected one by about `rejected`.
fn write_run(folder: &Path, seed: u64, step: &str, chosen: f64, rejected: f64) {
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    let name = folder.file_name().unwrap().to_str().unwrap();
    write(
        "recipe.toml",
        format!(
            "[run]\nseed = {seed}\nname = \"{name}\"\n[[stage]]\nname = \"align\"\nobjective = \"dpo\"\nsteps = 4\n\
             bilevel = {{ step = \"{step}\" }}\n"
        ),
    );
    // Rows differ by noise that sums to 0, seeds by a shift.
    let jitter = |i: usize| (i as f64 - 9.5) / 10.0 + 0.01 * seed as f64;
    let list = |at: &dyn Fn(usize) -> f64| {
        format!("[{}]", (0..ROWS).map(|i| format!("{}", at(i))).collect::<Vec<_>>().join(","))
    };
    let (mut metrics, mut held_out, mut diagnostics) = (String::new(), String::new(), String::new());
    let probe = r#"{"place":"p","prompt":"1+1=","chosen":"2</s>"}"#;
    let probes = vec![probe; ROWS].join(",");
    let _ =
        writeln!(diagnostics, r#"{{"kind":"probes","stage":"align","held_out":true,"probes":[{probes}]}}"#);
    for k in 0..=4 {
        let part = k as f64 / 4.0;
        let w = list(&|i| -1.0 + part * (chosen + jitter(i)));
        let l = list(&|i| -3.0 + part * (rejected - jitter(i)));
        if k > 0 {
            let _ = writeln!(
                metrics,
                r#"{{"stage":"align","step":{k},"loss":{},"logps/rejected":-3.0,"bilevel/constraint":{},"bilevel/weight":{}}}"#,
                0.7 - 0.1 * part,
                0.1 - 0.04 * k as f64,
                if k < 3 { 10.0 } else { 0.0 }
            );
        }
        if k == 0 || k == 4 {
            let right = (0..ROWS)
                .map(|i| if i % 4 < 4 - k / 2 { "true" } else { "false" })
                .collect::<Vec<_>>()
                .join(",");
            let answer = if k == 0 { "2" } else { "<b>2 & 2</b>" };
            let _ = writeln!(
                held_out,
                r#"{{"stage":"align","step":{k},"data":"seed {seed}","chosen":{w},"rejected":{l},"exact_match":[{right}],"samples":[{{"place":"row 1","prompt":"1+1=","chosen":"2","answer":"{answer}"}}]}}"#
            );
        }
        let (other, own) = (list(&|_| -9.0 + part), list(&|_| -6.0 - part));
        let end = list(&|i| -0.1 + 0.5 * part * (chosen + jitter(i)));
        let _ = writeln!(
            diagnostics,
            r#"{{"kind":"evolution","stage":"align","step":{k},"displaced":{},"chosen":{w},"chosen_end":{end},"rejected":{l},"other":{other},"shuffled":{other},"own":{own},"entropy":0.5,"lower":0.5}}"#,
            if k > 0 && chosen < -1.0 { 1.0 } else { 0.0 }
        );
        let _ = writeln!(
            diagnostics,
            r#"{{"kind":"geometry","stage":"align","step":{k},"probes":[0,1],"product":[2.0,-1.0],"norm_chosen":[1.0,2.0],"norm_rejected":[3.0,4.0],"predicted_chosen":[0.1,-0.1],"predicted_rejected":[-0.2,-0.3],"actual_chosen":[0.09,-0.11],"actual_rejected":[-0.2,-0.31]}}"#
        );
    }
    write("metrics.jsonl", metrics);
    write("held_out.jsonl", held_out);
    write("diagnostics.jsonl", diagnostics);
    write("summary.json", "{}".into());
}

/// Two arms of three seeds each.
fn sweep() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for seed in 0..3 {
        write_run(&place.path().join(format!("dpo-{seed}")), seed, "single", -2.0, -5.0);
        write_run(&place.path().join(format!("spo-{seed}")), seed, "penalty", 0.0, -1.0);
    }
    place
}

fn read(place: &TempDir, names: &[&str]) -> Vec<Run> {
    let paths: Vec<PathBuf> = names.iter().map(|name| place.path().join(name)).collect();
    runs(&paths).unwrap()
}

#[test]
fn runs_that_differ_by_their_seed_alone_are_one_arm() {
    let place = sweep();
    let all = runs(&[place.path().to_owned()]).unwrap();
    assert_eq!(all.len(), 6);
    let arms = arms(&all, None).unwrap();
    let labels: Vec<_> = arms.iter().map(|arm| (arm.label.as_str(), arm.members.len(), arm.over())).collect();
    assert_eq!(labels, [("dpo", 3, Over::Seeds), ("spo", 3, Over::Seeds)]);
    let dpo = arms[0].estimate(&CHOSEN_CHANGE).unwrap();
    assert!((dpo.mean + 1.99).abs() < 1e-9 && dpo.count == 3, "{dpo:?}");
    // Seeds shift both arms by the same amount, and rows too: their difference has no spread.
    let difference = arms[1].difference(&arms[0], &CHOSEN_CHANGE).unwrap();
    assert!((difference.mean - 2.0).abs() < 1e-9 && difference.interval.is_none(), "{difference:?}");
    // Every seed displaced the same share: the rows say how sure that is.
    let displaced = arms[1].difference(&arms[0], &DISPLACED).unwrap();
    let (low, high) = displaced.interval.unwrap();
    assert!(displaced.mean == -0.5 && low < -0.6 && high > -0.4, "{displaced:?}");
    let (low, high) = dpo.interval.unwrap();
    assert!(high - low > 0.01, "{dpo:?}");
}

/// Makes a folder a sweep of the runs in it.
fn write_sweep(folder: &Path, baseline: &str) {
    let cell = |arm: &str, seed: usize| {
        format!(r#"{{"name":"{arm}-{seed}","arm":"the {arm}","seed":{seed},"set":{{}}}}"#)
    };
    let cells: Vec<_> =
        ["dpo", "spo"].iter().flat_map(|arm| (0..3).map(move |seed| cell(arm, seed))).collect();
    let text = format!(r#"{{"name":"s","baseline":"{baseline}","cells":[{}]}}"#, cells.join(","));
    std::fs::write(folder.join("sweep.json"), text).unwrap();
}

#[test]
fn the_cells_of_a_sweep_know_its_arms_and_its_baseline() {
    let place = sweep();
    write_sweep(place.path(), "the spo");
    let cells: Vec<PathBuf> =
        (0..3).flat_map(|i| ["dpo", "spo"].map(|arm| place.path().join(format!("{arm}-{i}")))).collect();
    for paths in [vec![place.path().to_owned()], cells] {
        let all = runs(&paths).unwrap();
        let arms = arms(&all, None).unwrap();
        let known: Vec<_> = arms.iter().map(|arm| (arm.label.as_str(), arm.baseline)).collect();
        assert_eq!(known, [("the dpo", false), ("the spo", true)]);
    }
    std::fs::write(place.path().join("sweep.json"), "{").unwrap();
    let all = runs(&[place.path().to_owned()]).unwrap();
    assert!(all[0].gaps[0].contains("sweep.json"), "{:?}", all[0].gaps);
}

/// Seeds that were all measured on the same rows are one sample of seeds and one of rows.
#[test]
fn rows_that_all_seeds_share_widen_the_interval() {
    let place = sweep();
    let estimate = || {
        let all = runs(&[place.path().to_owned()]).unwrap();
        arms(&all, None).unwrap()[0].estimate(&CHOSEN_CHANGE).unwrap()
    };
    let width = |estimate: Estimate| estimate.interval.map(|(low, high)| high - low).unwrap();
    let of_their_own = estimate();
    for seed in 0..3 {
        let path = place.path().join(format!("dpo-{seed}/held_out.jsonl"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&format!("seed {seed}"), "the same")).unwrap();
    }
    let shared = estimate();
    assert_eq!(of_their_own.mean, shared.mean);
    // Of the seeds, the standard error is 0.0058; of the rows, 0.132.
    assert!(width(of_their_own) < 0.06 && width(shared) > 0.5, "{of_their_own:?} {shared:?}");
}

/// Before anything is learned, a model may give all answers the same probability. That is not a model that ranks every
/// pair wrong.
#[test]
fn a_tie_counts_half() {
    let place = sweep();
    let path = place.path().join("dpo-0/held_out.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let (first, last) = text.split_once('\n').unwrap();
    let mut start: serde_json::Value = serde_json::from_str(first).unwrap();
    start["rejected"] = start["chosen"].clone();
    for line in [first, last.trim()] {
        assert!(line.contains("exact_match"));
    }
    let without = |line: String| line.replace("\"exact_match\"", "\"other\"");
    std::fs::write(&path, format!("{}\n{}", without(start.to_string()), without(last.to_owned()))).unwrap();
    let one = read(&place, &["dpo-0"]);
    let told = words::of_arm(&arms(&one, None).unwrap()[0]);
    assert!(
        told.contains("ranked right by log-prob: 50% (100% tied, which counts half) before, 100%"),
        "{told}"
    );
}

#[test]
fn two_runs_are_compared_row_by_row_where_the_rows_are_the_same() {
    let place = sweep();
    let both = read(&place, &["dpo-0", "spo-0"]);
    let both = arms(&both, None).unwrap();
    assert_eq!(both[1].over(), Over::Rows);
    assert_eq!(both[1].difference(&both[0], &DISPLACED).unwrap().mean, -0.5);
    let matches = both[1].difference(&both[0], &EXACT_MATCH).unwrap();
    assert_eq!((matches.mean, matches.count), (0.0, ROWS));
    let others = read(&place, &["dpo-0", "spo-1"]);
    let others = arms(&others, None).unwrap();
    assert_eq!(others[1].difference(&others[0], &DISPLACED), None, "other rows, nothing to pair");
}

#[test]
fn the_words_are_computed_from_the_numbers() {
    let place = sweep();
    let (one, all) = (read(&place, &["dpo-0", "spo-0"]), runs(&[place.path().to_owned()]).unwrap());
    let mut text = String::new();
    for runs in [&one, &all] {
        let arms = arms(runs, None).unwrap();
        arms.iter().for_each(|arm| text += &(words::of_arm(arm) + "\n"));
        text += &(words::against(&arms[1], &arms[0]).unwrap() + "\n\n");
    }
    insta::assert_snapshot!("words", text);
}

#[test]
fn tables_hold_what_was_read_and_computed() {
    let place = sweep();
    let both = read(&place, &["dpo-0", "spo-0"]);
    let tables = export::tables(&both, &arms(&both, None).unwrap());
    let text = |name: &str| {
        let table = tables.iter().find(|(n, _)| *n == name).unwrap();
        String::from_utf8(table.1.csv()).unwrap()
    };
    assert_eq!(text("rows").lines().count(), 1 + 2 * ROWS);
    assert_eq!(text("metrics").lines().count(), 1 + 2 * 4 * 4);
    let comparison = text("comparison");
    assert_eq!(comparison.lines().count(), 1 + 2 * 5);
    assert!(comparison.contains("spo-0,displaced,share,,0.5,"), "{comparison}");
}

/// Parses the page and all charts of these runs as XML.
fn page_of(all: &[Run]) -> String {
    let arms = arms(all, None).unwrap();
    let page = Page::new(all, &arms, None);
    let html = page.html();
    let body = html.strip_prefix("<!doctype html>\n").expect("an HTML page");
    roxmltree::Document::parse(body).unwrap_or_else(|e| panic!("the page: {e}"));
    for (name, svg) in page.pictures() {
        let text = svg.standalone();
        roxmltree::Document::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!text.contains("NaN") && !text.contains("inf"), "{name}: {text}");
    }
    html
}

#[test]
fn the_page_is_well_formed_and_asks_for_nothing() {
    let place = sweep();
    for names in [&["dpo-0"][..], &["dpo-0", "spo-0"], &["dpo-0", "dpo-1", "spo-0", "spo-1"]] {
        let html = page_of(&read(&place, names));
        for reference in ["http:", "https:", "//", "url(", "@import", "<script", "src="] {
            // The namespace is a name and not an address; inline drawings need none.
            assert!(!html.contains(reference), "{reference}");
        }
        assert!(html.contains("&lt;b&gt;2 &amp; 2&lt;/b&gt;"), "answers are text");
    }
}

/// A label on a dot would hide a pair.
#[test]
fn no_label_lies_on_a_dot() {
    let place = sweep();
    let all = read(&place, &["dpo-0", "spo-0"]);
    let arms = arms(&all, None).unwrap();
    let page = Page::new(&all, &arms, None);
    let pictures = page.pictures();
    let crowded =
        pictures.iter().filter(|(name, _)| name.ends_with("quadrants") || name.ends_with("prediction"));
    let mut dots = 0;
    for (name, svg) in crowded {
        let text = svg.standalone();
        let document = roxmltree::Document::parse(&text).unwrap();
        let number =
            |node: &roxmltree::Node<'_, '_>, key: &str| node.attribute(key).unwrap().parse::<f64>().unwrap();
        let of = |tag: &'static str| {
            document.descendants().filter(move |node| node.has_tag_name(("http://www.w3.org/2000/svg", tag)))
        };
        for dot in of("circle").filter(|dot| number(dot, "r") < 4.0) {
            let (x, y) = (number(&dot, "cx"), number(&dot, "cy"));
            dots += 1;
            for label in of("text").filter(|label| label.attribute("x").is_some()) {
                // Letters are about 7 wide and 12 high.
                let width = 7.0 * label.text().unwrap().chars().count() as f64;
                let left = number(&label, "x")
                    - width
                        * match label.attribute("text-anchor") {
                            Some("end") => 1.0,
                            Some("middle") => 0.5,
                            _ => 0.0,
                        };
                let below = y - number(&label, "y");
                let hidden = (left..left + width).contains(&x) && (-12.0..4.0).contains(&below);
                assert!(!hidden, "{name}: `{}` lies on a dot", label.text().unwrap());
            }
        }
    }
    assert!(dots > 2 * ROWS, "{dots}");
}

#[test]
fn a_run_that_died_is_told_as_far_as_it_came() {
    let place = sweep();
    let folder = place.path().join("dpo-0");
    let cut = |name: &str, keep: usize| {
        let path = folder.join(name);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - keep]).unwrap();
    };
    std::fs::remove_file(folder.join("summary.json")).unwrap();
    cut("metrics.jsonl", 20);
    cut("diagnostics.jsonl", 700);
    let held_out = std::fs::read_to_string(folder.join("held_out.jsonl")).unwrap();
    std::fs::write(
        folder.join("held_out.jsonl"),
        format!("{}\nnonsense\n", held_out.lines().next().unwrap()),
    )
    .unwrap();
    let died = read(&place, &["dpo-0"]);
    insta::assert_snapshot!("gaps", died[0].gaps.join("\n"));
    page_of(&died);
    insta::assert_snapshot!("words_of_the_dead", words::of_arm(&arms(&died, None).unwrap()[0]));
    for name in ["held_out.jsonl", "diagnostics.jsonl", "recipe.toml"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("metrics.jsonl"), "").unwrap();
    let bare = read(&place, &["dpo-0"]);
    assert_eq!(bare[0].gaps.len(), 3, "{:?}", bare[0].gaps);
    page_of(&bare);
}

#[test]
fn only_what_the_recipe_asks_for_can_be_missing() {
    let place = sweep();
    let folder = place.path().join("dpo-0");
    std::fs::remove_file(folder.join("diagnostics.jsonl")).unwrap();
    let html = page_of(&read(&place, &["dpo-0"]));
    assert!(!html.contains("Incomplete") && html.contains("To see more: put `[diagnostics]`"));
    assert!(
        html.contains("<figcaption>The mean over the held-out rows") || !html.contains("The median probe")
    );
    let recipe = folder.join("recipe.toml");
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, format!("{text}[diagnostics]\nevery = 1\n")).unwrap();
    let html = page_of(&read(&place, &["dpo-0"]));
    assert!(
        html.contains("Incomplete")
            && html.contains("it has no diagnostics.jsonl, which its recipe asks for")
    );
}

#[test]
fn the_page_tells_settings_speed_and_machine() {
    let place = sweep();
    let write = |name: &str, text: &str| std::fs::write(place.path().join("dpo-0").join(name), text).unwrap();
    write(
        "run.json",
        r#"{"spo":"9.9","threads":7,"cpu":"Abacus <3>","system":"linux x86_64","device":"CPU","model":{"architecture":"llama","parameters":123,"trainable":45,"dtype":"f32"}}"#,
    );
    write(
        "summary.json",
        r#"{"stages":[{"name":"align","seconds":12.0,"step_seconds":0.25,"tokens_per_second":4321.0}]}"#,
    );
    let html = page_of(&read(&place, &["dpo-0", "spo-0"]));
    for text in [
        "Abacus &lt;3&gt;",
        "<td>7</td>",
        "123 parameters, 45 trained",
        "4321 tokens/s, 0.250 s per step (median), 12 s in all",
        "All settings of dpo-0",
        "objective = &quot;dpo&quot;",
        "One seed says little about another one",
        "There are 5 comparisons",
    ] {
        assert!(html.contains(text), "{text}");
    }
}

#[test]
fn what_is_no_run_is_refused() {
    let place = sweep();
    std::fs::create_dir(place.path().join("empty")).unwrap();
    for name in ["empty", "nowhere"] {
        let error = runs(&[place.path().join(name)]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let all = read(&place, &["dpo-0"]);
    let error = arms(&all, Some("algin")).unwrap_err().to_string();
    assert_eq!(error, "no stage is called `algin` in these runs; did you mean `align`?");
}

#[test]
fn fronts_tell_what_is_won_for_what_it_costs() {
    let place = tempfile::tempdir().unwrap();
    let mut cells = Vec::new();
    // `a` wins 10 points for 0.1 nats and 20 for 0.3, `b` as much as the latter for 0.1.
    for (arm, cost, accuracy) in [("a-0.1", 0.1, 0.6), ("a-0.3", 0.3, 0.7), ("b-1", 0.1, 0.7)] {
        for seed in 0..3 {
            let name = format!("{arm},seed={seed}");
            let folder = place.path().join(&name);
            std::fs::create_dir_all(&folder).unwrap();
            let recipe =
                format!("[run]\nseed = {seed}\n[[stage]]\nname = \"align\"\nobjective = \"{arm}\"\n");
            std::fs::write(folder.join("recipe.toml"), recipe).unwrap();
            let line = |step: usize, loss: f64, accuracy: f64| {
                format!(
                    r#"{{"stage":"align","step":{step},"logps/rejected":-1.0,"eval_sft_loss":{loss},"eval_sft_loss/rejected":{loss},"eval_pair_accuracy":{accuracy}}}"#
                )
            };
            let shift = 0.01 * f64::from(seed);
            let mut lines = vec![line(0, 1.0, 0.5 + shift), line(4, 1.0 + cost, accuracy + shift * shift)];
            if arm.starts_with('a') {
                // The first seed breaks both of its budgets, which are no two witnesses.
                let kept = u8::from(seed > 0);
                lines.push(format!(
                    r#"{{"stage":"align","step":4,"eval_budget/kept":{kept},"eval_budget/rise":{cost},"eval_budget/nats":0.2}}"#
                ));
            }
            std::fs::write(folder.join("metrics.jsonl"), lines.join("\n") + "\n").unwrap();
            cells.push(format!(r#"{{"name":"{name}","arm":"{arm}"}}"#));
        }
    }
    let sweep = format!(r#"{{"baseline":"a-0.1","cells":[{}]}}"#, cells.join(","));
    std::fs::write(place.path().join("sweep.json"), sweep).unwrap();
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: spo_report::Arguments,
    }
    let (folder, drawn) = (place.path().display().to_string(), place.path().join("drawn"));
    let page = drawn.join("page.html").display().to_string();
    let pictures = drawn.display().to_string();
    let told = |mistaken: &str| {
        let line =
            ["report", &folder, "-o", &page, "--svg", &pictures, "--front", "0.2", "--mistaken", mistaken];
        let line = <Line as clap::Parser>::try_parse_from(line).unwrap();
        spo_report::report(&line.arguments).unwrap().join("\n")
    };
    let told = [told("0"), told("0.5")];
    assert_eq!(told[0], told[1], "both kinds of answer rise alike here");
    let tables = told[0].split_once("The best").unwrap().1;
    insta::assert_snapshot!(tables.split_once("wrote").unwrap().0.trim_end());
    let picture = std::fs::read_to_string(drawn.join("front-pair.svg")).unwrap();
    assert!(picture.contains("What is won for what it costs: pair accuracy"));
    // Of `a`, the arm that costs more than was asked for is not drawn.
    assert_eq!(picture.matches("<circle").count(), 2, "{picture}");
}

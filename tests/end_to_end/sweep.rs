//! Sweeps: the cells are the same runs that one would start one by one, with less work.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use test_support::Place;

use crate::place;

const BASE: &str = concat!(
    tiny!(48, 12),
    r#"
[checkpoint]
every = 2
minutes = 0

[[stage]]
name = "sft"
objective = "sft"
steps = 10
batch_size = 16
optimizer = { lr = 3e-3 }

[[stage]]
name = "align"
objective = "dpo"
steps = 6
batch_size = 8
optimizer = { lr = 1e-3 }
"#
);

const SWEEP: &str = r#"
[sweep]
seeds = [0, 1]
[sweep.grid]
"stage.align.objective" = ["dpo", { name = "ipo", beta = 0.5 }]
"stage.align.bilevel" = ["single", "barrier"]
"#;

/// The cells of [`SWEEP`], each with the overrides that make it from [`BASE`].
fn cells() -> Vec<(String, Vec<String>)> {
    let mut cells = Vec::new();
    for bilevel in ["single", "barrier"] {
        for (objective, value) in [("dpo", "dpo"), ("ipo-beta=0.5", "{ name = \"ipo\", beta = 0.5 }")] {
            for seed in 0..2 {
                let sets = [
                    format!("stage.align.objective={value}"),
                    format!("stage.align.bilevel={bilevel}"),
                    format!("run.seed={seed}"),
                ];
                cells.push((format!("bilevel={bilevel},objective={objective},seed={seed}"), sets.to_vec()));
            }
        }
    }
    cells
}

/// Runs every cell separately, without a cache.
fn one_by_one(place: &Place) {
    place.write("base.toml", BASE);
    for (name, sets) in cells() {
        let output = format!("run.output=\"alone/{name}\"");
        let mut arguments = vec!["base.toml", "--quiet", "--set", "cache.enabled=false", "--set", &output];
        sets.iter().for_each(|set| arguments.extend(["--set", set]));
        place.run(&arguments).success();
    }
}

#[track_caller]
fn assert_same(place: &Place, sweep: &str) {
    for (name, _) in cells() {
        let metrics = |run: &str| place.read(&format!("{run}/{name}/metrics.jsonl"));
        assert!(metrics(sweep) == metrics("alone"), "{name}");
        let weights =
            |run: &str| std::fs::read(place.path(&format!("{run}/{name}/align/model.safetensors"))).unwrap();
        assert!(weights(sweep) == weights("alone"), "{name}");
    }
}

fn summary(place: &Place, run: &str) -> Value {
    serde_json::from_str(&place.read(&format!("{run}/summary.json"))).unwrap()
}

#[test]
fn a_sweep_gives_what_its_runs_would_give_one_by_one_with_less_work() {
    let place = place();
    one_by_one(&place);
    place.write("recipe.toml", [BASE, SWEEP].concat());
    let checked = place.run(&["check", "recipe.toml"]).success().stdout;
    assert!(checked.contains("8 cells; the baseline is `bilevel=single,objective=dpo`"), "{checked}");
    assert!(checked.contains("bilevel=barrier,objective=ipo-beta=0.5,seed=1 (shares sft)"), "{checked}");

    let swept = place.run(&["recipe.toml"]).success().stdout;
    assert_same(&place, "runs/recipe");
    // For every seed, one SFT stage, and one forward pass of the reference for every row.
    let mut trained = 0;
    let mut scored = 0;
    for (name, _) in cells() {
        let log = place.read(&format!("runs/recipe/{name}.log"));
        trained += usize::from(!log.contains("stage `sft` is taken from the cache"));
        scored +=
            summary(&place, &format!("runs/recipe/{name}"))["stages"][1]["reference_rows"].as_u64().unwrap();
        let recipe = place.read(&format!("runs/recipe/{name}.toml"));
        assert!(recipe.contains("stages = [\"sft\"]"), "{recipe}");
    }
    assert_eq!((trained, scored), (2, 2 * 48));

    for part in ["(8/8)", "pair accuracy", "log p(chosen)", "2/2", "Δ ", "±", "half a 95% interval"] {
        assert!(swept.contains(part), "{part}: {swept}");
    }
    let csv = place.read("runs/recipe/results.csv");
    assert_eq!(csv.lines().count(), 9);
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let column = header.iter().position(|name| *name == "eval_loss").unwrap();
    let line = csv.lines().nth(1).unwrap();
    assert!(
        line.starts_with("\"bilevel=single,objective=dpo,seed=0\",\"bilevel=single,objective=dpo\",0,true,")
    );
    let value: f64 = line.rsplit('"').next().unwrap().split(',').nth(column - 1).unwrap().parse().unwrap();
    let first = summary(&place, "runs/recipe/bilevel=single,objective=dpo,seed=0");
    assert_eq!(Some(value), first["stages"][1]["after"]["eval_loss"].as_f64());

    let again = place.run(&["recipe.toml"]).success().stdout;
    assert!(again.contains("8 of 8 cells are complete already") && !again.contains("begins"), "{again}");
    place.run(&["resume", "runs/recipe"]).success();
    // A changed sweep does not continue in the folder of the old one.
    let other = place.run(&["recipe.toml", "--set", "stage.align.steps=7"]);
    assert_eq!(other.code, 2, "{}", other.stderr);
    assert!(other.stderr.contains("`stage[1].steps` was 6, now it is 7"), "{}", other.stderr);
}

#[test]
fn a_bad_cell_names_itself_before_anything_starts() {
    let place = place();
    for (sweep, expected) in [
        (
            "grid = { \"stage.align.objective\" = [\"dpo\", \"dop\"] }",
            &["cell `objective=dop`", "unknown objective `dop`", "did you mean `dpo`?", "[sweep]"][..],
        ),
        ("grid = { \"stage.algn.steps\" = [1] }", &["cell `steps=1`", "did you mean `align`?"]),
        ("grid = { \"stage.align.batch_size\" = [8, 800] }", &["cell `batch_size=800`", "only 48 rows"]),
        (
            "zip = { \"stage.sft.steps\" = [1, 2], \"stage.align.steps\" = [1] }",
            &["has 2 values, the list before it has 1"],
        ),
        ("grid = { \"run.seed\" = 3 }", &["must be a list"]),
        ("seeds = [1, 1]", &["names 1 twice"]),
        ("seeds = []", &["needs `grid`"]),
        ("case = [{ name = \"a b\" }]", &["it names a folder"]),
        ("seeds = [1]\nbaseline = \"bse\"", &["no arm is called `bse`", "did you mean `base`?"]),
        ("seeds = [1]\njobs = 0", &["must be at least 1"]),
        ("gird = {}", &["did you mean `grid`?"]),
    ] {
        place.write("recipe.toml", format!("{BASE}\n[sweep]\n{sweep}\n"));
        for arguments in [&["recipe.toml"][..], &["check", "recipe.toml"]] {
            let refused = place.run(arguments);
            assert_eq!(refused.code, 2, "{sweep}: {}", refused.stderr);
            for part in expected {
                assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
            }
        }
        assert!(!place.path("runs").exists(), "{sweep}");
    }
}

#[test]
fn a_cell_that_fails_does_not_stop_the_others() {
    let place = place();
    let sweep = r#"
        [sweep]
        case = [
            { name = "broken", set = { "stage.align.optimizer.lr" = 1e30 } },
            { name = "sound" },
        ]
        baseline = "sound"
        metrics = ["eval_loss", "loss"]
    "#;
    place.write("recipe.toml", [BASE, sweep].concat());
    for attempt in 0..2 {
        let swept = place.run(&["recipe.toml"]);
        assert_eq!(swept.code, 1, "{}", swept.stderr);
        assert!(swept.stderr.contains("1 of 2 cells failed: broken"), "{}", swept.stderr);
        assert!(
            swept.stdout.contains("broken failed: error: stage `align`: step 2 of 6"),
            "{}",
            swept.stdout
        );
        assert_eq!(swept.stdout.contains("sound done"), attempt == 0, "{}", swept.stdout);
        assert!(swept.stdout.contains("0/1") && swept.stdout.contains("1/1"), "{}", swept.stdout);
    }
    assert!(summary(&place, "runs/recipe/sound")["stages"].is_array());
    assert!(place.read("runs/recipe/results.csv").contains("broken,broken,0,false,"));
}

/// Sends a signal to a process.
fn kill(signal: &str, process: u32) {
    let _ = Command::new("kill").args([signal, &process.to_string()]).stderr(Stdio::null()).status();
}

/// The process that holds the lock of a folder.
fn holder(place: &Place, folder: &str) -> Option<u32> {
    std::fs::read_to_string(place.path(&format!("{folder}/.lock"))).ok()?.parse().ok()
}

#[test]
fn a_sweep_that_is_killed_goes_on_to_the_same_bits() {
    let place = place();
    one_by_one(&place);
    place.write("recipe.toml", [BASE, SWEEP].concat());
    let mut seed = 3u64;
    for attempt in 0.. {
        let mut launcher = place.command(&["recipe.toml"]).stdout(Stdio::null()).spawn().unwrap();
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let deadline = Instant::now() + Duration::from_millis(100 + (seed >> 33) % 1500);
        let mut ended = None;
        while Instant::now() < deadline && ended.is_none() {
            ended = launcher.try_wait().unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(status) = ended {
            assert!(status.success(), "attempt {attempt}");
            break;
        }
        launcher.kill().unwrap();
        launcher.wait().unwrap();
        // Every other time its cells keep running, and the next launcher finds them running.
        if attempt % 2 == 0 {
            let at_work =
                cells().into_iter().filter_map(|(name, _)| holder(&place, &format!("runs/recipe/{name}")));
            at_work.for_each(|process| kill("-KILL", process));
        }
        assert!(attempt < 100, "it never gets through");
    }
    assert_same(&place, "runs/recipe");
}

#[test]
fn a_signal_stops_the_cells_too() {
    let place = place();
    one_by_one(&place);
    place.write("recipe.toml", [BASE, SWEEP].concat());
    let mut launcher =
        place.command(&["recipe.toml"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (first, _) = cells().remove(0);
    let began = Instant::now();
    while !place.path(&format!("runs/recipe/{first}/checkpoints")).exists() && began.elapsed().as_secs() < 60
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    kill("-TERM", launcher.id());
    let ended = launcher.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut launcher.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(ended.code(), Some(143), "{said}");
    assert!(said.contains("stopped by SIGTERM") && said.contains("`spo-run resume runs/recipe`"), "{said}");
    for (name, _) in cells() {
        let free = std::fs::File::open(place.path(&format!("runs/recipe/{name}/.lock")));
        assert!(
            free.is_ok_and(|lock| lock.try_lock().is_ok())
                || !place.path(&format!("runs/recipe/{name}")).exists()
        );
    }
    place.run(&["resume", "runs/recipe"]).success();
    assert_same(&place, "runs/recipe");
}

#[test]
fn cells_run_side_by_side_within_their_budget() {
    let place = place();
    let sweep =
        |budget: &str| format!("{BASE}{}", SWEEP.replace("[sweep]\n", &format!("[sweep]\n{budget}\n")));
    // The largest number of cells that run at a time, from the messages of the launcher.
    let widest = |said: &str| {
        said.lines().fold((0i32, 0i32), |(now, most), line| {
            let now = now + i32::from(line.ends_with(" begins")) - i32::from(line.contains(" done in "));
            (now, most.max(now))
        })
    };
    place.write("two.toml", sweep("jobs = 2"));
    let two = place.run(&["two.toml"]).success().stdout;
    assert_eq!(widest(&two), (0, 2), "{two}");
    place.write("tight.toml", sweep("jobs = 2\nmemory = 0.001"));
    let tight = place.run(&["tight.toml"]).success().stdout;
    assert_eq!(widest(&tight), (0, 1), "{tight}");
    place.write("wide.toml", sweep("jobs = 2\nmemory = 8"));
    let wide = place.run(&["wide.toml"]).success().stdout;
    assert_eq!(widest(&wide).1, 2, "{wide}");
    for (name, _) in cells() {
        let metrics = |run: &str| place.read(&format!("runs/{run}/{name}/metrics.jsonl"));
        assert!(metrics("two") == metrics("wide") && metrics("two") == metrics("tight"), "{name}");
    }
}

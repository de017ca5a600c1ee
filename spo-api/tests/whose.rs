//! Whose code runs when something crashes: calls across the border mark the part they go to, calls back mark the
//! program, and nothing unwinds out of either.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use spo_api::{
    Backend, BilevelProblem, BilevelStep, Combine, Export, LevelWeights, LogProbs, Losses, Map, ModelInfo,
    ModelSource, ModelSpec, Optimizer, Part, Passes, Progress, Registry, Result, Sampling, Session,
    Statistics, StepNeeds, StepReport, TokenBatch, Update, Upstream, Vector, VectorSpace, Weigh, abi,
    register,
};

/// The part at work now, in words; nothing for the program's own code.
fn at_work() -> Option<&'static str> {
    abi::current().0.map(|at| &*at.part)
}

/// Who is at work is known of the whole program, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A space that does nothing but hold that it is the right one who is at work.
struct Watched {
    whose: Option<&'static str>,
    panics: bool,
}

impl Watched {
    fn seen(&self) {
        assert_eq!(at_work(), self.whose);
        assert!(!self.panics, "in the space");
    }
}

impl VectorSpace for Watched {
    fn dimension(&self) -> usize {
        self.seen();
        3
    }
    fn allocate(&mut self) -> Result<Vector> {
        self.seen();
        Ok(Vector(2))
    }
    fn release(&mut self, _: Vector) {
        self.seen();
    }
    fn zero(&mut self, _: Vector) -> Result<()> {
        self.seen();
        Ok(())
    }
    fn copy(&mut self, _: Vector, _: Vector) -> Result<()> {
        self.seen();
        Ok(())
    }
    fn scale(&mut self, _: f64, _: Vector) -> Result<()> {
        self.seen();
        Ok(())
    }
    fn axpy(&mut self, _: f64, _: Vector, _: Vector) -> Result<()> {
        self.seen();
        Ok(())
    }
    fn dot(&mut self, _: Vector, _: Vector) -> Result<f64> {
        self.seen();
        Ok(1.0)
    }
    fn map(&mut self, _: Map, _: Vector) -> Result<()> {
        self.seen();
        Ok(())
    }
    fn combine(&mut self, _: Combine, _: Vector, _: Vector) -> Result<()> {
        self.seen();
        Ok(())
    }
    fn decay(&mut self, _: f64, _: Vector) -> Result<()> {
        self.seen();
        Ok(())
    }
}

/// Every operation there is, once.
fn all_operations(space: &mut dyn VectorSpace) -> Result<()> {
    let (before, v) = (at_work(), Vector::GRADIENT);
    assert_eq!(space.dimension(), 3);
    let scratch = space.allocate()?;
    space.release(scratch);
    space.zero(v)?;
    space.copy(v, v)?;
    space.scale(2.0, v)?;
    space.axpy(2.0, v, v)?;
    space.dot(v, v)?;
    space.map(Map::Sign, v)?;
    space.combine(Combine::Maximum, v, v)?;
    space.decay(0.5, v)?;
    assert_eq!(at_work(), before, "the caller is at work again");
    Ok(())
}

const BACKEND: &str = "backend `watched`";
const STEP: &str = "step `watched`";
const OPTIMIZER: &str = "optimizer `watched`";

/// A backend, a step and an optimizer in one: each does all operations of the space it sees.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Everything {
    /// The space panics.
    #[serde(default)]
    panics: bool,
}

impl Part for Everything {}

impl Backend for Everything {
    fn open(&self, _: &ModelSpec) -> Result<Box<dyn Session>> {
        Ok(Box::new(WatchedSession { space: Watched { whose: Some(BACKEND), panics: self.panics } }))
    }
}

struct WatchedSession {
    space: Watched,
}

impl Session for WatchedSession {
    fn info(&self) -> ModelInfo {
        unreachable!()
    }
    fn log_probs(&mut self, _: &TokenBatch, _: Statistics) -> Result<LogProbs> {
        unreachable!()
    }
    fn backward(&mut self, _: &TokenBatch, _: Statistics, upstream: &mut Upstream<'_>) -> Result<LogProbs> {
        assert_eq!(at_work(), Some(BACKEND));
        let found = LogProbs::new(vec![], vec![0]);
        upstream(&found)?;
        assert_eq!(at_work(), Some(BACKEND));
        Ok(found)
    }
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.space
    }
    fn generate(&mut self, _: &[Vec<u32>], _: &Sampling) -> Result<Vec<Vec<u32>>> {
        unreachable!()
    }
    fn save(&mut self, _: &Path, _: Export) -> Result<()> {
        unreachable!()
    }
    fn save_state(&mut self, _: &Path) -> Result<()> {
        unreachable!()
    }
    fn restore_state(&mut self, _: &Path) -> Result<()> {
        unreachable!()
    }
}

impl Optimizer for Everything {
    fn step(&self, space: &mut dyn VectorSpace, _: &[Vector], _: &Update) -> Result<()> {
        assert_eq!(at_work(), Some(OPTIMIZER));
        all_operations(space)
    }
}

impl BilevelStep for Everything {
    fn needs(&self) -> StepNeeds {
        StepNeeds::default()
    }
    fn passes(&self) -> Passes {
        Passes::default()
    }
    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        assert_eq!(at_work(), Some(STEP));
        all_operations(problem.vectors())?;
        let mut rule = |_: Losses| {
            assert_eq!(at_work(), Some(STEP), "the rule for the weights is the step's");
            Ok(LevelWeights::UPPER)
        };
        problem.gradient(Weigh::By(&mut rule), Vector::GRADIENT)?;
        problem.progress();
        problem.descend(1.0)?;
        Ok(StepReport::default())
    }
}

register!(backend Everything { name: "watched", summary: "a test", source: "a test" });
register!(step Everything { name: "watched", summary: "a test", source: "a test" });
register!(optimizer Everything { name: "watched", summary: "a test", source: "a test" });

/// The part of a kind, loaded.
fn loaded<K: spo_api::Kind + ?Sized>(panics: bool) -> Box<K> {
    let entry = Registry::linked().unwrap().get(K::NAME, "watched").unwrap();
    abi::through(entry).make(&json!({ "panics": panics })).unwrap()
}

fn session(panics: bool) -> Box<dyn Session> {
    let source = ModelSource::Random(json!({}));
    let spec = ModelSpec {
        source,
        adapter: None,
        quantize: None,
        allow_pickle: false,
        seed: 0,
        device: "auto".into(),
        dtype: "f64".into(),
    };
    loaded::<dyn Backend>(panics).open(&spec).unwrap()
}

#[test]
fn a_loaded_backend_is_at_work_in_its_vectors() {
    let _alone = alone();
    let mut session = session(false);
    all_operations(session.vectors()).unwrap();
    let mut upstream = |_: &LogProbs| {
        assert_eq!(at_work(), None, "the upstream gradient is the program's");
        Ok(vec![])
    };
    session.backward(&TokenBatch::default(), Statistics::default(), &mut upstream).unwrap();
    assert_eq!(at_work(), None);
}

const UPDATE: Update = Update { lr: 0.1, gradient_scale: 1.0, count: 1 };

#[test]
fn the_program_is_at_work_in_what_it_lends_to_an_optimizer() {
    let _alone = alone();
    let mut space = Watched { whose: None, panics: false };
    loaded::<dyn Optimizer>(false).step(&mut space, &[], &UPDATE).unwrap();
    // The space may be another part's.
    let mut session = session(false);
    loaded::<dyn Optimizer>(false).step(session.vectors(), &[], &UPDATE).unwrap();
}

struct Problem(Watched);

impl BilevelProblem for Problem {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.0
    }
    fn gradient(&mut self, weigh: Weigh<'_>, _: Vector) -> Result<Losses> {
        self.0.seen();
        if let Weigh::By(rule) = weigh {
            rule(Losses::default())?;
        }
        self.0.seen();
        Ok(Losses::default())
    }
    fn lower(&mut self) -> Result<f64> {
        unreachable!()
    }
    fn lower_hessian_vector(&mut self, _: Vector, _: Vector) -> Result<()> {
        unreachable!()
    }
    fn reference_lower(&mut self) -> Result<f64> {
        unreachable!()
    }
    fn next_lower(&mut self) -> Result<()> {
        unreachable!()
    }
    fn descend(&mut self, _: f64) -> Result<()> {
        self.0.seen();
        Ok(())
    }
    fn progress(&self) -> Progress {
        self.0.seen();
        Progress { step: 0, total: 1 }
    }
}

#[test]
fn the_program_is_at_work_in_what_it_lends_to_a_step() {
    let _alone = alone();
    let mut problem = Problem(Watched { whose: None, panics: false });
    loaded::<dyn BilevelStep>(false).step(&mut problem).unwrap();
}

/// A panic of the program, in what it has lent, goes on where it began.
#[test]
fn a_panic_of_the_program_comes_back_to_it() {
    let _alone = alone();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(|| {
        let mut space = Watched { whose: None, panics: true };
        loaded::<dyn Optimizer>(false).step(&mut space, &[], &UPDATE)
    });
    std::panic::set_hook(hook);
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"in the space"));
    assert_eq!(at_work(), None);
}

/// What a loaded backend's space throws does not come out of it: where it could return an error it does, elsewhere
/// the program ends.
#[test]
fn nothing_unwinds_out_of_a_loaded_space() {
    let _alone = alone();
    const OPERATION: &str = "SPO_TEST_OPERATION";
    if let Ok(operation) = std::env::var(OPERATION) {
        let mut session = session(true);
        let escaped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match &*operation {
            "dimension" => drop(session.vectors().dimension()),
            _ => session.vectors().release(Vector(7)),
        }));
        println!("{operation}: escaped {}", escaped.is_err());
        return;
    }
    let error = session(true).vectors().zero(Vector(7)).unwrap_err().to_string();
    assert_eq!(error, "the vector operation `zero` panicked: in the space");
    for operation in ["dimension", "release"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_unwinds_out_of_a_loaded_space", "--nocapture"])
            .env(OPERATION, operation)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(!child.status.success() && !said.contains("escaped"), "{operation}: {said}");
        assert!(String::from_utf8_lossy(&child.stderr).contains("cannot unwind"), "{operation}");
    }
}

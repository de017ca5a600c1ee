//! Import of sessions: the trait implemented with a table, on the program's side.

use std::ffi::c_void;
use std::path::Path;

use super::{LogProbsView, SessionTable, ShowSink};
use crate::abi::handle::Handle;
use crate::abi::layout::TableError;
use crate::abi::optimizer::UpdateView;
use crate::abi::status::{ErrorSink, answer};
use crate::abi::text::{ByteSink, Text, from_json, to_json};
use crate::abi::tokens::Flat;
use crate::abi::vectors::RemoteSpace;
use crate::abi::watch::{self, At};
use crate::{
    Error, Export, Kernel, LogProbs, ModelInfo, Result, Sampling, Session, Statistics, Tangent, TokenBatch,
    Update, Upstream, Vector, VectorSpace, WeightType,
};

/// A session on the other side.
pub(in crate::abi) struct ImportedSession {
    part: Handle<SessionTable>,
    space: RemoteSpace,
}

// SAFETY: by the contract of the table, a session may move between threads together with its space.
unsafe impl Send for ImportedSession {}

/// Receives the log-probs of a session and computes the upstream gradient if requested.
struct Reader<'a, 'b> {
    offsets: Vec<usize>,
    asked: Statistics,
    seen: Option<LogProbs>,
    upstream: Option<&'a mut Upstream<'b>>,
    /// The error of the upstream function, kept because its type would be lost on the way through the plugin.
    error: Option<Error>,
}

impl Reader<'_, '_> {
    /// # Safety
    /// The view is valid; `gradient` is null or as long as the view.
    unsafe fn read(&mut self, view: &LogProbsView, gradient: *mut f64) -> Result<()> {
        let expected = self.offsets[self.offsets.len() - 1];
        if view.length != expected {
            return Err(Error::Engine(format!("{} log-probs for {expected} tokens", view.length)));
        }
        let copy = |name: &str, asked: bool, values: *const f64| match (asked, values.is_null()) {
            (false, _) => Ok(vec![]),
            (true, true) if expected > 0 => Err(Error::Engine(format!("asked for the {name}, and got none"))),
            (true, true) => Ok(vec![]),
            // SAFETY: guaranteed by the caller.
            (true, false) => Ok(unsafe { std::slice::from_raw_parts(values, expected) }.to_vec()),
        };
        let seen = LogProbs {
            values: copy("log-probs", true, view.values)?,
            offsets: std::mem::take(&mut self.offsets),
            entropy: copy("entropy", self.asked.entropy, view.entropy)?,
            collision: copy("collision statistic", self.asked.collision, view.collision)?,
            greedy: copy("greedy flags", self.asked.greedy, view.greedy)?,
        };
        let seen = self.seen.insert(seen);
        if let Some(upstream) = &mut self.upstream {
            if gradient.is_null() {
                return Err(Error::Engine("no room for the upstream gradient".into()));
            }
            let found = upstream(seen).map_err(|e| {
                let text = e.to_string();
                self.error = Some(e);
                Error::Engine(text)
            })?;
            assert_eq!(found.len(), expected, "one upstream number per log-prob");
            // SAFETY: guaranteed by the caller.
            unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), gradient, expected) };
        }
        Ok(())
    }
}

unsafe extern "C-unwind" fn read(
    context: *mut c_void,
    view: *const LogProbsView,
    gradient: *mut f64,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: the context is the `Reader` of the current call; the rest by the contract of the table.
    unsafe {
        // The upstream function is code of the program.
        let _home = watch::enter(None);
        answer(error, || {
            let reader = &mut *context.cast::<Reader<'_, '_>>();
            if reader.seen.is_some() {
                return Err(Error::Engine("log-probs were shown twice".into()));
            }
            reader.read(&*view, gradient)
        })
    }
}

impl ImportedSession {
    /// # Safety
    /// The functions of the table may be called with `this` for as long as the result lives.
    pub(in crate::abi) unsafe fn new(
        table: SessionTable,
        this: *mut c_void,
        at: &'static At,
    ) -> Result<Self, TableError> {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let part = Handle::new(table, this, table.destroy, at);
            Ok(ImportedSession { part, space: RemoteSpace::new(table.vectors, this, Some(at))? })
        }
    }

    /// Calls a function on a batch and returns the log-probs it shows.
    fn shown(
        &mut self,
        batch: &TokenBatch,
        asked: Statistics,
        upstream: Option<&mut Upstream<'_>>,
        function: impl FnOnce(&SessionTable, *mut c_void, &Flat, &ShowSink, *const ErrorSink) -> i32,
    ) -> Result<LogProbs> {
        let flat = Flat::of(batch);
        let offsets = flat.completion_offsets.clone();
        let mut reader = Reader { offsets, asked, seen: None, upstream, error: None };
        let sink = ShowSink { context: (&raw mut reader).cast(), show: read };
        let done = self.part.call(|t, this, error| function(t, this, &flat, &sink, error));
        if let Some(error) = reader.error {
            return Err(error);
        }
        done?;
        reader.seen.ok_or_else(|| Error::Engine(format!("{} showed no log-probs", self.part.at())))
    }
}

fn bits(statistics: Statistics) -> u32 {
    let Statistics { entropy, collision, greedy } = statistics;
    u32::from(entropy) | u32::from(collision) << 1 | u32::from(greedy) << 2
}

fn utf8(path: &Path) -> Result<&str> {
    let unreadable = || std::io::Error::other("a loaded backend can only use paths that are UTF-8");
    path.to_str().ok_or_else(|| Error::io(path, unreadable()))
}

impl Session for ImportedSession {
    fn info(&self) -> ModelInfo {
        // SAFETY: by the contract of the table, here and below.
        let text = ByteSink::collect(|sink| self.part.ask(|t, this| unsafe { (t.info)(this, sink) }));
        let told = from_json("the model's description", &text).unwrap_or_else(|e| ModelInfo {
            architecture: e.to_string(),
            trainable: self.space.dimension(),
            device: "unknown".into(),
            dtype: "unknown".into(),
            ..ModelInfo::default()
        });
        let table = self.part.table();
        ModelInfo {
            hessian_vectors: told.hessian_vectors && table.hessian_vector.is_some(),
            router_loss: told.router_loss.filter(|_| table.weigh_router_loss.is_some()),
            updates_in_backward: told.updates_in_backward && table.backward_and_optimize.is_some(),
            ..told
        }
    }

    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs> {
        // SAFETY: as above; borrowed arguments outlive the call.
        self.shown(batch, statistics, None, |t, this, flat, sink, error| unsafe {
            (t.log_probs)(this, &flat.view(), bits(statistics), sink, error)
        })
    }

    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs> {
        // SAFETY: as above.
        self.shown(batch, statistics, Some(upstream), |t, this, flat, sink, error| unsafe {
            (t.backward)(this, &flat.view(), bits(statistics), sink, error)
        })
    }

    fn hessian_vector(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
        into: Vector,
    ) -> Result<Tangent> {
        let Some(function) = self.part.table().hessian_vector else {
            let at = self.part.at();
            return Err(Error::Engine(format!("{at} has no exact Hessian-vector products")));
        };
        let mut derivatives = vec![0.0; batch.completions().map(Vec::len).sum()];
        let (asked, out) = (Statistics::default(), derivatives.as_mut_ptr());
        // SAFETY: as above; the buffer has one element per log-prob.
        let log_probs = self.shown(batch, asked, Some(upstream), |_, this, flat, sink, error| unsafe {
            function(this, &flat.view(), sink, v.0, into.0, out, error)
        })?;
        Ok(Tangent { log_probs, derivatives })
    }

    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.space
    }

    fn adopt_optimizer(&mut self, kernel: Option<&Kernel>) -> Result<bool> {
        let Some(function) = self.part.table().adopt_optimizer else { return Ok(false) };
        let (kernel, mut taken) = (kernel.map(to_json), 0);
        let kernel = kernel.as_ref().map_or(Text::NONE, |json| Text::bytes_of(json));
        // SAFETY: as above.
        self.part.call(|_, this, error| unsafe { function(this, kernel, &mut taken, error) })?;
        Ok(taken != 0)
    }

    fn optimize(&mut self, update: &Update) -> Result<()> {
        let Some(function) = self.part.table().optimize else {
            return Err(Error::Engine(format!("{} runs no optimizer", self.part.at())));
        };
        let update = UpdateView::of(update);
        // SAFETY: as above.
        self.part.call(|_, this, error| unsafe { function(this, &update, error) })
    }

    fn backward_and_optimize(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
        update: &Update,
    ) -> Result<(LogProbs, f64)> {
        let Some(function) = self.part.table().backward_and_optimize else {
            return Err(Error::Engine(format!("{} keeps the whole gradient", self.part.at())));
        };
        let (update, mut norm) = (UpdateView::of(update), f64::NAN);
        // SAFETY: as above.
        let found = self.shown(batch, statistics, Some(upstream), |_, this, flat, sink, error| unsafe {
            function(this, &flat.view(), bits(statistics), sink, &update, &mut norm, error)
        })?;
        Ok((found, norm))
    }

    fn drop_out(&mut self, seed: Option<u64>) -> Result<()> {
        let Some(function) = self.part.table().drop_out else { return Ok(()) };
        let (on, seed) = (u32::from(seed.is_some()), seed.unwrap_or(0));
        // SAFETY: as above.
        self.part.call(|_, this, error| unsafe { function(this, on, seed, error) })
    }

    fn weigh_router_loss(&mut self, weight: f64) -> Result<()> {
        match self.part.table().weigh_router_loss {
            // SAFETY: as above.
            Some(function) => self.part.call(|_, this, error| unsafe { function(this, weight, error) }),
            None if weight == 0.0 => Ok(()),
            None => Err(Error::Engine(format!("{} has no loss of routers", self.part.at()))),
        }
    }

    fn router_loss(&self) -> f64 {
        let function = self.part.table().router_loss;
        // SAFETY: as above.
        function.map_or(0.0, |function| self.part.ask(|_, this| unsafe { function(this) }))
    }

    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>> {
        let flat = Flat::new(prompts.iter().map(|prompt| (prompt, &[][..])));
        let sampling = to_json(sampling);
        let mut done = Ok(());
        let text = ByteSink::collect(|out| {
            // SAFETY: as above.
            done = self.part.call(|t, this, error| unsafe {
                (t.generate)(this, &flat.view(), Text::bytes_of(&sampling), out, error)
            });
        });
        done?;
        from_json("what was generated", &text)
    }

    fn save(&mut self, folder: &Path, what: Export) -> Result<()> {
        let text = utf8(folder)?;
        let what = match what {
            Export::Model => 0,
            Export::Adapter => 1,
            Export::ModelIn(WeightType::F32) => 2,
            Export::ModelIn(WeightType::F16) => 3,
            Export::ModelIn(WeightType::Bf16) => 4,
        };
        // SAFETY: as above.
        self.part.call(|t, this, error| unsafe { (t.save)(this, Text::of(text), what, error) })
    }

    fn save_state(&mut self, file: &Path) -> Result<()> {
        let text = utf8(file)?;
        // SAFETY: as above.
        self.part.call(|t, this, error| unsafe { (t.save_state)(this, Text::of(text), error) })
    }

    fn restore_state(&mut self, file: &Path) -> Result<()> {
        let text = utf8(file)?;
        // SAFETY: as above.
        self.part.call(|t, this, error| unsafe { (t.restore_state)(this, Text::of(text), error) })
    }
}

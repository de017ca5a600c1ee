//! The program's end of a session: a table behind the trait.

use std::ffi::c_void;
use std::path::Path;

use super::{AdamWView, LogProbsView, PathFunction, SessionTable, ShowSink};
use crate::abi::layout::TableError;
use crate::abi::status::{ErrorSink, answer, call};
use crate::abi::text::{ByteSink, Text, from_json, to_json};
use crate::abi::tokens::Flat;
use crate::abi::vectors;
use crate::abi::watch::{self, At, fence};
use crate::{
    AdamW, Error, Export, LogProbs, ModelInfo, Result, Sampling, Session, Statistics, Tangent, TokenBatch,
    Upstream, Vector, VectorSpace,
};

/// A session on the other side.
pub(in crate::abi) struct Imported {
    table: SessionTable,
    this: *mut c_void,
    vectors: vectors::Imported,
    at: &'static At,
}

// SAFETY: the contract of the table lets a part move between threads.
unsafe impl Send for Imported {}

/// What a session shows, and who wants to see it.
struct Reader<'a, 'b> {
    offsets: Vec<usize>,
    asked: Statistics,
    seen: Option<LogProbs>,
    upstream: Option<&'a mut Upstream<'b>>,
    /// The upstream's own error, which must not be lost in translation.
    error: Option<Error>,
}

impl Reader<'_, '_> {
    /// # Safety
    /// The view is valid, `gradient` null or as long as it.
    unsafe fn read(&mut self, view: &LogProbsView, gradient: *mut f64) -> Result<()> {
        let expected = self.offsets[self.offsets.len() - 1];
        if view.length != expected {
            return Err(Error::Engine(format!("{} log-probs for {expected} tokens", view.length)));
        }
        let copy = |name: &str, asked: bool, values: *const f64| match (asked, values.is_null()) {
            (false, _) => Ok(vec![]),
            (true, true) if expected > 0 => Err(Error::Engine(format!("asked for the {name}, and got none"))),
            (true, true) => Ok(vec![]),
            // SAFETY: the caller's.
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
            // SAFETY: the caller's.
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
    // SAFETY: the context is the `Reader` of the call at work; the rest by the contract of the table.
    unsafe {
        answer(error, || {
            let reader = &mut *context.cast::<Reader<'_, '_>>();
            if reader.seen.is_some() {
                return Err(Error::Engine("log-probs were shown twice".into()));
            }
            reader.read(&*view, gradient)
        })
    }
}

impl Imported {
    /// # Safety
    /// The table was checked, and its functions may be called with `this` for as long as the result lives.
    pub(in crate::abi) unsafe fn new(
        table: SessionTable,
        this: *mut c_void,
        at: &'static At,
    ) -> Result<Self> {
        // SAFETY: the caller's.
        let vectors = unsafe { vectors::Imported::new(table.vectors, this) };
        let vectors = vectors.map_err(|e: TableError| Error::Engine(format!("{at}: {e}")))?;
        Ok(Imported { table, this, vectors, at })
    }

    /// What a function shows of a batch.
    fn shown(
        &mut self,
        batch: &TokenBatch,
        asked: Statistics,
        upstream: Option<&mut Upstream<'_>>,
        function: impl FnOnce(&Flat, &ShowSink, *const ErrorSink) -> i32,
    ) -> Result<LogProbs> {
        let flat = Flat::of(batch);
        let offsets = flat.completion_offsets.clone();
        let mut reader = Reader { offsets, asked, seen: None, upstream, error: None };
        let sink = ShowSink { context: (&raw mut reader).cast(), show: read };
        let _inside = watch::enter(self.at);
        let done = call(self.at, |error| function(&flat, &sink, error));
        if let Some(error) = reader.error {
            return Err(error);
        }
        done?;
        reader.seen.ok_or_else(|| Error::Engine(format!("{} showed no log-probs", self.at)))
    }

    fn score(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: Option<&mut Upstream<'_>>,
    ) -> Result<LogProbs> {
        let function = if upstream.is_some() { self.table.backward } else { self.table.log_probs };
        let Statistics { entropy, collision, greedy } = statistics;
        let bits = u32::from(entropy) | u32::from(collision) << 1 | u32::from(greedy) << 2;
        let this = self.this;
        // SAFETY: by the contract of the table; what is lent outlives the call.
        self.shown(batch, statistics, upstream, |flat, sink, error| unsafe {
            function.expect("checked on import")(this, &flat.view(), bits, sink, error)
        })
    }

    fn with_path(&mut self, function: Option<PathFunction>, path: &Path) -> Result<()> {
        let text = utf8(path)?;
        let _inside = watch::enter(self.at);
        // SAFETY: by the contract of the table.
        call(self.at, |error| unsafe {
            function.expect("checked on import")(self.this, Text::of(text), error)
        })
    }
}

fn utf8(path: &Path) -> Result<&str> {
    let unreadable = || std::io::Error::other("a loaded backend can only use paths that are UTF-8");
    path.to_str().ok_or_else(|| Error::io(path, unreadable()))
}

impl Session for Imported {
    fn info(&self) -> ModelInfo {
        let _inside = watch::enter(self.at);
        // SAFETY: by the contract of the table, here and below.
        let text = ByteSink::collect(|sink| {
            fence(|| unsafe { self.table.info.expect("checked on import")(self.this, sink) })
        });
        let told = from_json("the model's description", &text).unwrap_or_else(|e| ModelInfo {
            architecture: e.to_string(),
            parameters: 0,
            trainable: self.vectors.dimension(),
            vocabulary: 0,
            context: 0,
            device: "unknown".into(),
            dtype: "unknown".into(),
            hessian_vectors: false,
        });
        ModelInfo { hessian_vectors: told.hessian_vectors && self.table.hessian_vector.is_some(), ..told }
    }

    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs> {
        self.score(batch, statistics, None)
    }

    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs> {
        self.score(batch, statistics, Some(upstream))
    }

    fn hessian_vector(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
        into: Vector,
    ) -> Result<Tangent> {
        let Some(function) = self.table.hessian_vector else {
            return Err(Error::Engine(format!("{} has no exact Hessian-vector products", self.at)));
        };
        let mut derivatives = vec![0.0; batch.completions().map(Vec::len).sum()];
        let (this, out) = (self.this, derivatives.as_mut_ptr());
        // SAFETY: as above; there is room for one number per log-prob.
        let log_probs =
            self.shown(batch, Statistics::default(), Some(upstream), |flat, sink, error| unsafe {
                function(this, &flat.view(), sink, v.0, into.0, out, error)
            })?;
        Ok(Tangent { log_probs, derivatives })
    }

    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.vectors
    }

    fn optimizer_step(&mut self, step: &AdamW) -> Result<()> {
        let AdamW { lr, beta1, beta2, epsilon, weight_decay, exempt_bias_and_norm, gradient_scale } = *step;
        let view = AdamWView {
            size: size_of::<AdamWView>() as u32,
            exempt_bias_and_norm: exempt_bias_and_norm.into(),
            lr,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            gradient_scale,
        };
        let _inside = watch::enter(self.at);
        // SAFETY: as above.
        call(self.at, |error| unsafe {
            self.table.optimizer_step.expect("checked on import")(self.this, &view, error)
        })
    }

    fn reset_optimizer(&mut self) {
        let _inside = watch::enter(self.at);
        // SAFETY: as above.
        fence(|| unsafe { self.table.reset_optimizer.expect("checked on import")(self.this) })
    }

    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>> {
        let flat = Flat::new(prompts.iter().map(|prompt| (prompt, &[][..])));
        let sampling = to_json(sampling);
        let sampling = Text { bytes: sampling.as_ptr(), length: sampling.len() };
        let mut done = Ok(());
        let _inside = watch::enter(self.at);
        let text = ByteSink::collect(|out| {
            // SAFETY: as above.
            done = call(self.at, |error| unsafe {
                self.table.generate.expect("checked on import")(self.this, &flat.view(), sampling, out, error)
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
        };
        let _inside = watch::enter(self.at);
        // SAFETY: as above.
        call(self.at, |error| unsafe {
            self.table.save.expect("checked on import")(self.this, Text::of(text), what, error)
        })
    }

    fn save_state(&mut self, file: &Path) -> Result<()> {
        self.with_path(self.table.save_state, file)
    }

    fn restore_state(&mut self, file: &Path) -> Result<()> {
        self.with_path(self.table.restore_state, file)
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        let _inside = watch::enter(self.at);
        // SAFETY: made by `open`, not used again.
        fence(|| unsafe { self.table.destroy.expect("checked on import")(self.this) });
    }
}

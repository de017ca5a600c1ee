//! A backend and its sessions across the border.

use std::ffi::c_void;
use std::path::Path;

use super::layout::{Table, TableError, required};
use super::plugin::{self, Create, Exported};
use super::status::{ErrorSink, answer, call};
use super::text::{ByteSink, Text, from_json, to_json};
use super::vectors::{self, Owner, VectorTable};
use super::watch::{self, At, fence};
use serde_json::Value;

use crate::{
    AdamW, Backend, Build, ConfigError, Entry, Error, Export, Group, LogProbs, ModelInfo, ModelSpec, Result,
    Sampling, Session, Statistics, TokenBatch, Upstream, VectorSpace,
};

/// [`TokenBatch`] as flat arrays. Prompt `g` is `prompts[prompt_offsets[g]..prompt_offsets[g + 1]]`; its
/// completions are those numbered `group_offsets[g]..group_offsets[g + 1]`, and completion `c` is
/// `completions[completion_offsets[c]..completion_offsets[c + 1]]`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TokensView {
    /// Bytes of this struct.
    pub size: u32,
    /// Number of prompts.
    pub groups: usize,
    /// Token ids of all prompts.
    pub prompts: *const u32,
    /// `groups + 1` of them, rising from 0.
    pub prompt_offsets: *const usize,
    /// `groups + 1` of them, rising from 0.
    pub group_offsets: *const usize,
    /// Token ids of all completions.
    pub completions: *const u32,
    /// One more than completions, rising from 0.
    pub completion_offsets: *const usize,
}

/// [`LogProbs`] as flat arrays; the offsets are those of the completions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LogProbsView {
    /// Bytes of this struct.
    pub size: u32,
    /// Number of values: all tokens of all completions.
    pub length: usize,
    /// Log-probs, nats.
    pub values: *const f64,
    /// Entropy, or null if it was not asked for; so below.
    pub entropy: *const f64,
    /// The collision statistic.
    pub collision: *const f64,
    /// 1 where the token was the most probable one.
    pub greedy: *const f64,
}

/// Where a session shows log-probs, once per call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShowSink {
    /// For `show`.
    pub context: *mut c_void,
    /// `gradient` has room for one number per log-prob, which `show` fills; null in a pass without
    /// backward.
    pub show: unsafe extern "C-unwind" fn(
        context: *mut c_void,
        log_probs: *const LogProbsView,
        gradient: *mut f64,
        error: *const ErrorSink,
    ) -> i32,
}

/// See [`AdamW`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AdamWView {
    /// Bytes of this struct.
    pub size: u32,
    /// 1 to leave biases and norms undecayed.
    pub exempt_bias_and_norm: u32,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor of the gradient.
    pub gradient_scale: f64,
}

/// [`Backend`] as functions. `this` is what `create` made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BackendTable {
    /// Bytes of this table.
    pub size: u32,
    /// Makes a backend from `backend.options` of the recipe, as JSON. `context` is that of the entry.
    pub create: Option<Create>,
    /// Frees it. Its sessions live on.
    pub destroy: Option<unsafe extern "C-unwind" fn(this: *mut c_void)>,
    /// Opens a model; `spec` is a [`ModelSpec`] as JSON.
    pub open: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            spec: Text,
            session: *mut *mut c_void,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// The functions of its sessions.
    pub session: *const SessionTable,
}

// SAFETY: repr(C), begins with its size, absent functions and pointers are null.
unsafe impl Table for BackendTable {
    const NAME: &'static str = "table of backend functions";
    const REQUIRED: usize = size_of::<Self>();
}

// SAFETY: by the contract a table, and the one it points to, is immutable and read by any thread.
unsafe impl Send for BackendTable {}
// SAFETY: as above.
unsafe impl Sync for BackendTable {}

type PathFunction =
    unsafe extern "C-unwind" fn(this: *mut c_void, path: Text, error: *const ErrorSink) -> i32;

/// [`Session`] as functions. `this` is what `open` made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SessionTable {
    /// Bytes of this table.
    pub size: u32,
    /// Frees it.
    pub destroy: Option<unsafe extern "C-unwind" fn(this: *mut c_void)>,
    /// Writes a [`ModelInfo`] as JSON.
    pub info: Option<unsafe extern "C-unwind" fn(this: *mut c_void, out: *const ByteSink)>,
    /// Scores completions. `statistics`: 1 entropy, 2 collision, 4 greedy, added up.
    pub log_probs: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            batch: *const TokensView,
            statistics: u32,
            show: *const ShowSink,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// The same, and adds to vector 1 the gradient of the sum of log-probs times what `show` wrote.
    pub backward: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            batch: *const TokensView,
            statistics: u32,
            show: *const ShowSink,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// The space of trainable parameters; first argument of its functions is the session.
    pub vectors: *const VectorTable,
    /// One optimizer step from vector 1.
    pub optimizer_step: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            step: *const AdamWView,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// Forgets the optimizer's moments and step count.
    pub reset_optimizer: Option<unsafe extern "C-unwind" fn(this: *mut c_void)>,
    /// Continues prompts (the completions of the batch are empty); `sampling` is a [`Sampling`] as JSON.
    /// Writes a JSON array with an array of token ids per prompt.
    pub generate: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            prompts: *const TokensView,
            sampling: Text,
            out: *const ByteSink,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// Writes the model (`what` 0) or its adapter (1) into an existing folder.
    pub save: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            folder: Text,
            what: u32,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// Writes everything that training has changed into a file.
    pub save_state: Option<PathFunction>,
    /// Takes it back.
    pub restore_state: Option<PathFunction>,
}

// SAFETY: repr(C), begins with its size, absent functions and pointers are null.
unsafe impl Table for SessionTable {
    const NAME: &'static str = "table of session functions";
    const REQUIRED: usize = size_of::<Self>();
}

// SAFETY: as for the table of a backend.
unsafe impl Sync for SessionTable {}

// The plugin's end.

/// The table of every backend written in Rust; `create` finds the entry behind its context.
pub(super) static TABLE: BackendTable = BackendTable {
    size: size_of::<BackendTable>() as u32,
    create: Some(plugin::create::<dyn Backend>),
    destroy: Some(plugin::destroy::<dyn Backend>),
    open: Some(open),
    session: &SESSION,
};

static SESSION: SessionTable = SessionTable {
    size: size_of::<SessionTable>() as u32,
    destroy: Some(destroy_session),
    info: Some(info),
    log_probs: Some(log_probs),
    backward: Some(backward),
    vectors: &VECTORS,
    optimizer_step: Some(optimizer_step),
    reset_optimizer: Some(reset_optimizer),
    generate: Some(generate),
    save: Some(save),
    save_state: Some(save_state),
    restore_state: Some(restore_state),
};

static VECTORS: VectorTable = vectors::export::<Box<dyn Session>>();

impl Owner for Box<dyn Session> {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        (**self).vectors()
    }
}

impl Exported for dyn Backend {
    fn build(entry: &Entry, config: &Value) -> Result<Box<Self>, ConfigError> {
        match entry.build {
            Build::Backend(build) => build(config),
            _ => unreachable!("the table of a kind stands in entries of that kind"),
        }
    }
}

unsafe extern "C-unwind" fn open(
    this: *mut c_void,
    spec: Text,
    out: *mut *mut c_void,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let spec: ModelSpec = from_json("the model's specification", spec.bytes())?;
            let opened: Box<dyn Session> = (*this.cast::<Box<dyn Backend>>()).open(&spec)?;
            *out = Box::into_raw(Box::new(opened)).cast();
            Ok(())
        })
    }
}

unsafe extern "C-unwind" fn destroy_session(this: *mut c_void) {
    // SAFETY: it came from `open` and is not used again.
    drop(unsafe { Box::from_raw(this.cast::<Box<dyn Session>>()) });
}

/// # Safety
/// `this` came from `open` and nobody else uses it now: the contract of the table.
unsafe fn session<'a>(this: *mut c_void) -> &'a mut dyn Session {
    // SAFETY: the caller's.
    unsafe { &mut **this.cast::<Box<dyn Session>>() }
}

unsafe extern "C-unwind" fn info(this: *mut c_void, out: *const ByteSink) {
    // SAFETY: as above.
    unsafe { ByteSink::put(out, &to_json(&session(this).info())) }
}

fn statistics(bits: u32) -> Statistics {
    Statistics { entropy: bits & 1 != 0, collision: bits & 2 != 0, greedy: bits & 4 != 0 }
}

/// Shows log-probs to the caller.
///
/// # Safety
/// `sink` is valid, `gradient` null or as long as the log-probs.
unsafe fn show(sink: *const ShowSink, found: &LogProbs, gradient: *mut f64) -> Result<()> {
    let some = |values: &Vec<f64>| if values.is_empty() { std::ptr::null() } else { values.as_ptr() };
    let view = LogProbsView {
        size: size_of::<LogProbsView>() as u32,
        length: found.values.len(),
        values: found.values.as_ptr(),
        entropy: some(&found.entropy),
        collision: some(&found.collision),
        greedy: some(&found.greedy),
    };
    // SAFETY: the caller's.
    call(&"the reader of log-probs", |error| unsafe {
        ((*sink).show)((*sink).context, &view, gradient, error)
    })
}

unsafe extern "C-unwind" fn log_probs(
    this: *mut c_void,
    batch: *const TokensView,
    bits: u32,
    sink: *const ShowSink,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let found = session(this).log_probs(&(*batch).batch(), statistics(bits))?;
            show(sink, &found, std::ptr::null_mut())
        })
    }
}

unsafe extern "C-unwind" fn backward(
    this: *mut c_void,
    batch: *const TokensView,
    bits: u32,
    sink: *const ShowSink,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let mut upstream = |found: &LogProbs| {
                let mut gradient = vec![0.0; found.values.len()];
                show(sink, found, gradient.as_mut_ptr())?;
                Ok(gradient)
            };
            session(this).backward(&(*batch).batch(), statistics(bits), &mut upstream)?;
            Ok(())
        })
    }
}

unsafe extern "C-unwind" fn optimizer_step(
    this: *mut c_void,
    step: *const AdamWView,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let AdamWView { lr, beta1, beta2, epsilon, weight_decay, gradient_scale, .. } = *step;
            let exempt_bias_and_norm = (*step).exempt_bias_and_norm != 0;
            session(this).optimizer_step(&AdamW {
                lr,
                beta1,
                beta2,
                epsilon,
                weight_decay,
                exempt_bias_and_norm,
                gradient_scale,
            })
        })
    }
}

unsafe extern "C-unwind" fn reset_optimizer(this: *mut c_void) {
    // SAFETY: as above.
    unsafe { session(this).reset_optimizer() }
}

unsafe extern "C-unwind" fn generate(
    this: *mut c_void,
    prompts: *const TokensView,
    sampling: Text,
    out: *const ByteSink,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let prompts: Vec<_> = (*prompts).batch().groups.into_iter().map(|group| group.prompt).collect();
            let sampling: Sampling = from_json("the way of sampling", sampling.bytes())?;
            ByteSink::put(out, &to_json(&session(this).generate(&prompts, &sampling)?));
            Ok(())
        })
    }
}

unsafe extern "C-unwind" fn save(this: *mut c_void, folder: Text, what: u32, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let what = match what {
                0 => Export::Model,
                1 => Export::Adapter,
                other => return Err(Error::Engine(format!("cannot save the unknown thing {other}"))),
            };
            session(this).save(path(folder)?, what)
        })
    }
}

unsafe extern "C-unwind" fn save_state(this: *mut c_void, file: Text, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || session(this).save_state(path(file)?)) }
}

unsafe extern "C-unwind" fn restore_state(this: *mut c_void, file: Text, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || session(this).restore_state(path(file)?)) }
}

/// # Safety
/// The text is readable.
unsafe fn path<'a>(text: Text) -> Result<&'a Path> {
    // SAFETY: the caller's.
    unsafe { text.strict("a path") }.map(Path::new).map_err(Error::Engine)
}

impl TokensView {
    /// # Safety
    /// The arrays are as long as the offsets say.
    unsafe fn batch(&self) -> TokenBatch {
        // SAFETY: the caller's.
        unsafe {
            let slice = |ids: *const u32, offsets: *const usize, i: usize| {
                let (from, to) = (*offsets.add(i), *offsets.add(i + 1));
                std::slice::from_raw_parts(ids.add(from), to - from).to_vec()
            };
            let group = |g: usize| Group {
                prompt: slice(self.prompts, self.prompt_offsets, g),
                completions: (*self.group_offsets.add(g)..*self.group_offsets.add(g + 1))
                    .map(|c| slice(self.completions, self.completion_offsets, c))
                    .collect(),
            };
            TokenBatch { groups: (0..self.groups).map(group).collect() }
        }
    }
}

// The program's end.

/// A token batch laid out flat, to be lent.
struct Flat {
    prompts: Vec<u32>,
    prompt_offsets: Vec<usize>,
    group_offsets: Vec<usize>,
    completions: Vec<u32>,
    completion_offsets: Vec<usize>,
}

impl Flat {
    fn new<'a>(groups: impl Iterator<Item = (&'a Vec<u32>, &'a [Vec<u32>])>) -> Self {
        let mut flat = Flat {
            prompts: vec![],
            prompt_offsets: vec![0],
            group_offsets: vec![0],
            completions: vec![],
            completion_offsets: vec![0],
        };
        for (prompt, completions) in groups {
            flat.prompts.extend(prompt);
            flat.prompt_offsets.push(flat.prompts.len());
            for completion in completions {
                flat.completions.extend(completion);
                flat.completion_offsets.push(flat.completions.len());
            }
            flat.group_offsets.push(flat.completion_offsets.len() - 1);
        }
        flat
    }

    fn of(batch: &TokenBatch) -> Self {
        Flat::new(batch.groups.iter().map(|g| (&g.prompt, &*g.completions)))
    }

    fn view(&self) -> TokensView {
        TokensView {
            size: size_of::<TokensView>() as u32,
            groups: self.prompt_offsets.len() - 1,
            prompts: self.prompts.as_ptr(),
            prompt_offsets: self.prompt_offsets.as_ptr(),
            group_offsets: self.group_offsets.as_ptr(),
            completions: self.completions.as_ptr(),
            completion_offsets: self.completion_offsets.as_ptr(),
        }
    }
}

/// A backend on the other side.
struct Imported {
    table: BackendTable,
    session: SessionTable,
    this: *mut c_void,
    at: &'static At,
}

// SAFETY: the contract of the table lets a part move between threads.
unsafe impl Send for Imported {}

/// Makes a backend by a table.
///
/// # Safety
/// The table and the context are those of one entry, and obey the contract.
pub(super) unsafe fn import(
    table: &BackendTable,
    context: *const c_void,
    at: &'static At,
    config: &serde_json::Value,
) -> Result<Box<dyn Backend>> {
    // SAFETY: the caller's.
    unsafe {
        let this = plugin::make(table.create.expect("checked on import"), context, at, config)?;
        let session = super::layout::read(table.session).expect("checked on import");
        Ok(Box::new(Imported { table: *table, session, this, at }))
    }
}

/// Makes sure of a table before anything is called.
///
/// # Safety
/// As [`read`](super::layout::read).
pub(super) unsafe fn check(table: *const BackendTable) -> Result<BackendTable, TableError> {
    // SAFETY: the caller's.
    unsafe {
        let table = super::layout::read(table)?;
        required!(table, BackendTable, create, destroy, open);
        let session = super::layout::read(table.session)?;
        required!(
            session,
            SessionTable,
            destroy,
            info,
            log_probs,
            backward,
            optimizer_step,
            reset_optimizer,
            generate,
            save,
            save_state,
            restore_state,
        );
        vectors::Imported::new(session.vectors, std::ptr::null_mut())?;
        Ok(table)
    }
}

impl Backend for Imported {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        let spec = serde_json::to_string(spec).map_err(|e| Error::Model(format!("the model's path: {e}")))?;
        let mut this = std::ptr::null_mut();
        let _inside = watch::enter(self.at);
        // SAFETY: by the contract of the table, here and below.
        call(self.at, |error| unsafe {
            self.table.open.expect("checked on import")(self.this, Text::of(&spec), &mut this, error)
        })?;
        // SAFETY: as above.
        let vectors = unsafe { vectors::Imported::new(self.session.vectors, this) };
        let vectors = vectors.map_err(|e| Error::Engine(format!("{}: {e}", self.at)))?;
        Ok(Box::new(ImportedSession { table: self.session, this, vectors, at: self.at }))
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        let _inside = watch::enter(self.at);
        // SAFETY: made by `create`, not used again.
        fence(|| unsafe { self.table.destroy.expect("checked on import")(self.this) });
    }
}

/// A session on the other side.
struct ImportedSession {
    table: SessionTable,
    this: *mut c_void,
    vectors: vectors::Imported,
    at: &'static At,
}

// SAFETY: the contract of the table lets a part move between threads.
unsafe impl Send for ImportedSession {}

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

impl ImportedSession {
    fn score(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: Option<&mut Upstream<'_>>,
    ) -> Result<LogProbs> {
        let flat = Flat::of(batch);
        let function = if upstream.is_some() { self.table.backward } else { self.table.log_probs };
        let offsets = flat.completion_offsets.clone();
        let mut reader = Reader { offsets, asked: statistics, seen: None, upstream, error: None };
        let sink = ShowSink { context: (&raw mut reader).cast(), show: read };
        let Statistics { entropy, collision, greedy } = statistics;
        let bits = u32::from(entropy) | u32::from(collision) << 1 | u32::from(greedy) << 2;
        let _inside = watch::enter(self.at);
        // SAFETY: by the contract of the table; what is lent outlives the call.
        let done = call(self.at, |error| unsafe {
            function.expect("checked on import")(self.this, &flat.view(), bits, &sink, error)
        });
        if let Some(error) = reader.error {
            return Err(error);
        }
        done?;
        reader.seen.ok_or_else(|| Error::Engine(format!("{} showed no log-probs", self.at)))
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

impl Session for ImportedSession {
    fn info(&self) -> ModelInfo {
        let _inside = watch::enter(self.at);
        // SAFETY: by the contract of the table, here and below.
        let text = ByteSink::collect(|sink| {
            fence(|| unsafe { self.table.info.expect("checked on import")(self.this, sink) })
        });
        from_json("the model's description", &text).unwrap_or_else(|e| ModelInfo {
            architecture: e.to_string(),
            parameters: 0,
            trainable: self.vectors.dimension(),
            vocabulary: 0,
            context: 0,
            device: "unknown".into(),
            dtype: "unknown".into(),
        })
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

impl Drop for ImportedSession {
    fn drop(&mut self) {
        let _inside = watch::enter(self.at);
        // SAFETY: made by `open`, not used again.
        fence(|| unsafe { self.table.destroy.expect("checked on import")(self.this) });
    }
}

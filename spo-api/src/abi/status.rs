//! Errors across the plugin ABI.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::watch::fence;
use crate::abi::Text;
use crate::{ConfigError, Error, Result};

/// Return value of a function: 0 for success, otherwise the kind of failure, as the number of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status;

impl Status {
    /// Success.
    pub const OK: i32 = 0;
    /// [`Error::Config`]: an invalid configuration; the error's key says where.
    pub const CONFIG: i32 = 1;
    /// [`Error::Batch`]: the batch lacks data or is malformed.
    pub const BATCH: i32 = 2;
    /// [`Error::NonFinite`]: a number is not finite.
    pub const NON_FINITE: i32 = 3;
    /// [`Error::Model`]: a model folder cannot be used.
    pub const MODEL: i32 = 4;
    /// [`Error::Engine`]: the engine failed.
    pub const ENGINE: i32 = 5;
    /// [`Error::Io`]: a file error; the error's key is the path.
    pub const IO: i32 = 6;
    /// [`Error::Stopped`]: the run was asked to stop.
    pub const STOPPED: i32 = 7;
    /// The function panicked, which is a bug in it.
    pub const PANIC: i32 = 8;
}

/// Receives the description of a failure. The texts are copied before `report` returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ErrorSink {
    /// First argument of `report`.
    pub context: *mut c_void,
    /// `key`: what the failure is about (a configuration key, a path). `suggestion`: the closest valid
    /// choice. Both may be none.
    pub report: unsafe extern "C-unwind" fn(context: *mut c_void, key: Text, message: Text, suggestion: Text),
}

/// What was reported to an [`ErrorSink`].
#[derive(Default)]
struct Told {
    key: Option<String>,
    message: Option<String>,
    suggestion: Option<String>,
}

unsafe extern "C-unwind" fn listen(context: *mut c_void, key: Text, message: Text, suggestion: Text) {
    let some = |text: Text| {
        // SAFETY: the texts are valid during the call of `report`.
        (!text.bytes.is_null()).then(|| unsafe { text.lossy() })
    };
    // SAFETY: the context is the `Told` of `call`, which is waiting for this function.
    unsafe {
        *context.cast::<Told>() =
            Told { key: some(key), message: some(message), suggestion: some(suggestion) }
    }
}

/// Calls a function across the ABI. `who` names it in messages about its failures.
pub(super) fn call(
    who: &dyn std::fmt::Display,
    function: impl FnOnce(*const ErrorSink) -> i32,
) -> Result<()> {
    let mut told = Told::default();
    let sink = ErrorSink { context: (&raw mut told).cast(), report: listen };
    let status = fence(|| function(&sink));
    if status == Status::OK {
        return Ok(());
    }
    let Told { key, message, suggestion } = told;
    let message = message.unwrap_or_else(|| "no reason was given".into());
    Err(match status {
        Status::CONFIG => Error::Config(ConfigError { key, suggestion, ..ConfigError::whole(message) }),
        Status::BATCH => Error::Batch(message),
        Status::NON_FINITE => Error::NonFinite(message),
        Status::MODEL => Error::Model(message),
        Status::ENGINE => Error::Engine(message),
        Status::IO => Error::io(key.unwrap_or_default(), std::io::Error::other(message)),
        Status::STOPPED => Error::Stopped(message),
        Status::PANIC => Error::Engine(format!("{who} panicked: {message}")),
        unknown => Error::Engine(format!("{who} returned the unknown status {unknown}: {message}")),
    })
}

/// Runs the body of a function that is called across the ABI, and converts errors and panics to a status.
///
/// # Safety
/// `sink` is null or valid.
pub(super) unsafe fn answer(sink: *const ErrorSink, body: impl FnOnce() -> Result<()>) -> i32 {
    let (status, key, message, suggestion) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return Status::OK,
        Ok(Err(error)) => match error {
            Error::Config(e) => (Status::CONFIG, e.key, e.message, e.suggestion),
            Error::Batch(m) => (Status::BATCH, None, m, None),
            Error::NonFinite(m) => (Status::NON_FINITE, None, m, None),
            Error::Model(m) => (Status::MODEL, None, m, None),
            Error::Engine(m) => (Status::ENGINE, None, m, None),
            Error::Io { path, source } => {
                (Status::IO, Some(path.to_string_lossy().into_owned()), source.to_string(), None)
            }
            Error::Stopped(m) => (Status::STOPPED, None, m, None),
        },
        Err(panic) => (Status::PANIC, None, words(&*panic), None),
    };
    let lend = |text: &Option<String>| text.as_deref().map_or(Text::NONE, Text::of);
    if !sink.is_null() {
        // SAFETY: the pointer is not null, so it is valid.
        unsafe { ((*sink).report)((*sink).context, lend(&key), Text::of(&message), lend(&suggestion)) };
    }
    status
}

/// Defines the functions of a table that can fail. The body of each gets the object behind the first
/// argument, and the other arguments unchanged.
macro_rules! answers {
    ($object_type:ty: $(fn $name:ident($object:ident $(, $argument:ident: $type:ty)*) $body:block)+) => {
        $(unsafe extern "C-unwind" fn $name(
            this: *mut std::ffi::c_void,
            $($argument: $type,)*
            error: *const $crate::abi::ErrorSink,
        ) -> i32 {
            // SAFETY: by the contract of the table, `this` is such an object, nothing else uses it now, and
            // borrowed arguments are valid for the call.
            unsafe {
                $crate::abi::status::answer(error, || {
                    let $object = &mut *this.cast::<$object_type>();
                    $body
                })
            }
        })+
    };
}
pub(super) use answers;

/// The message of a panic.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn across(body: impl FnOnce() -> Result<()>) -> Result<()> {
        // SAFETY: `call` passes a valid sink.
        call(&"the test", |sink| unsafe { answer(sink, body) })
    }

    #[test]
    fn every_error_arrives_as_it_was() {
        let config = ConfigError { suggestion: Some("c".into()), ..ConfigError::at("a.b", "no") };
        let errors: [fn(ConfigError) -> Error; 7] = [
            Error::Config,
            |_| Error::Batch("short".into()),
            |_| Error::NonFinite("NaN".into()),
            |_| Error::Model("gone".into()),
            |_| Error::Engine("out of memory".into()),
            |_| Error::io("a/b", std::io::Error::other("full")),
            |_| Error::Stopped("enough".into()),
        ];
        for make in errors {
            let (sent, received) = (make(config.clone()), across(|| Err(make(config.clone()))).unwrap_err());
            assert_eq!(format!("{sent:?}"), format!("{received:?}"));
        }
        assert!(across(|| Ok(())).is_ok());
    }

    #[test]
    fn panics_and_nonsense_become_errors_that_say_who() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let panic = across(|| panic!("at {}", "the disco")).unwrap_err();
        std::panic::set_hook(hook);
        assert_eq!(panic.to_string(), "the test panicked: at the disco");
        let odd = call(&"the test", |_| 42).unwrap_err();
        assert_eq!(odd.to_string(), "the test returned the unknown status 42: no reason was given");
    }
}

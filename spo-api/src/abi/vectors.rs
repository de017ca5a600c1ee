//! Vector spaces across the plugin ABI: the space of a session, of a bilevel problem, or of an optimizer's
//! parameters.

use std::ffi::c_void;

use super::layout::{TableError, read, table};
use super::lent::Lent;
use super::status::{ErrorSink, call};
use super::watch::{self, At, fence};
use crate::{Combine, Error, Map, Result, SpaceOwner, Vector, VectorSpace};

table! {
    /// [`VectorSpace`] as functions. Their first argument is the owner of the space: a session, the context
    /// of a problem, or the owner passed to an optimizer together with the table.
    VectorTable, "table of vector operations";
    data {}
    required {
        /// Number of trainable parameters.
        dimension: fn(owner: *mut c_void) -> usize;
        /// Allocates a vector of zeros.
        allocate: fn(owner: *mut c_void, out: *mut u32, error: *const ErrorSink) -> i32;
        /// Frees a vector.
        release: fn(owner: *mut c_void, v: u32);
        /// `v <- 0`.
        zero: fn(owner: *mut c_void, v: u32, error: *const ErrorSink) -> i32;
        /// `to <- from`.
        copy: fn(owner: *mut c_void, from: u32, to: u32, error: *const ErrorSink) -> i32;
        /// `v <- a v`.
        scale: fn(owner: *mut c_void, a: f64, v: u32, error: *const ErrorSink) -> i32;
        /// `y <- y + a x`.
        axpy: fn(owner: *mut c_void, a: f64, x: u32, y: u32, error: *const ErrorSink) -> i32;
        /// `<x, y>`.
        dot: fn(owner: *mut c_void, x: u32, y: u32, out: *mut f64, error: *const ErrorSink) -> i32;
    }
    optional {
        /// `v <- f(v)`, elementwise: 1 `v + a`, 2 `v / a`, 3 square root, 4 sign, 5 absolute value.
        map: fn(owner: *mut c_void, f: u32, a: f64, v: u32, error: *const ErrorSink) -> i32;
        /// `y <- y op x`, elementwise: 1 `y * x`, 2 `y / x`, 3 maximum.
        combine: fn(owner: *mut c_void, op: u32, x: u32, y: u32, error: *const ErrorSink) -> i32;
        /// `v <- a v`, except for biases and norms.
        decay: fn(owner: *mut c_void, a: f64, v: u32, error: *const ErrorSink) -> i32;
    }
}

/// A borrowed space: its functions and their first argument.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SpaceView {
    /// The functions.
    pub table: *const VectorTable,
    /// Their first argument.
    pub owner: *mut c_void,
}

/// The owner of a space: what the first argument of the functions of an exported table points to.
pub(super) trait Owner {
    /// Handles a call that can fail.
    ///
    /// # Safety
    /// `owner` points to an owner of this type that nothing else uses meanwhile; `error` is null or valid.
    unsafe fn answer(
        owner: *mut c_void,
        error: *const ErrorSink,
        body: impl FnOnce(&mut dyn VectorSpace) -> Result<()>,
    ) -> i32;

    /// Handles a call that cannot fail.
    ///
    /// # Safety
    /// As [`answer`](Self::answer).
    unsafe fn ask<R: Default>(owner: *mut c_void, body: impl FnOnce(&mut dyn VectorSpace) -> R) -> R;
}

impl<T: SpaceOwner + ?Sized> Owner for Lent<'_, T> {
    unsafe fn answer(
        owner: *mut c_void,
        error: *const ErrorSink,
        body: impl FnOnce(&mut dyn VectorSpace) -> Result<()>,
    ) -> i32 {
        // SAFETY: guaranteed by the caller.
        unsafe { Lent::<T>::answer(owner, error, |thing, _| body(thing.space())) }
    }

    unsafe fn ask<R: Default>(owner: *mut c_void, body: impl FnOnce(&mut dyn VectorSpace) -> R) -> R {
        // SAFETY: guaranteed by the caller.
        unsafe { Lent::<T>::ask(owner, |thing| body(thing.space())) }
    }
}

/// The table for a space whose owner is an `O`.
pub(super) const fn export<O: Owner>() -> VectorTable {
    VectorTable {
        size: size_of::<VectorTable>() as u32,
        dimension: dimension::<O>,
        allocate: allocate::<O>,
        release: release::<O>,
        zero: zero::<O>,
        copy: copy::<O>,
        scale: scale::<O>,
        axpy: axpy::<O>,
        dot: dot::<O>,
        map: Some(map::<O>),
        combine: Some(combine::<O>),
        decay: Some(decay::<O>),
    }
}

unsafe extern "C-unwind" fn dimension<O: Owner>(owner: *mut c_void) -> usize {
    // SAFETY: by the contract of the table. The same applies below.
    unsafe { O::ask(owner, |space| space.dimension()) }
}

unsafe extern "C-unwind" fn release<O: Owner>(owner: *mut c_void, v: u32) {
    // SAFETY: as above.
    unsafe { O::ask(owner, |space| space.release(Vector(v))) }
}

/// Defines the functions of the table that can fail.
macro_rules! operations {
    ($(fn $name:ident($space:ident $(, $argument:ident: $type:ty)*) $body:block)+) => {
        $(unsafe extern "C-unwind" fn $name<O: Owner>(
            owner: *mut c_void,
            $($argument: $type,)*
            error: *const ErrorSink,
        ) -> i32 {
            // SAFETY: by the contract of the table; the pointers for results are valid.
            unsafe { O::answer(owner, error, |$space| $body) }
        })+
    };
}

operations! {
    fn allocate(space, out: *mut u32) { space.allocate().map(|v| *out = v.0) }
    fn zero(space, v: u32) { space.zero(Vector(v)) }
    fn copy(space, from: u32, to: u32) { space.copy(Vector(from), Vector(to)) }
    fn scale(space, a: f64, v: u32) { space.scale(a, Vector(v)) }
    fn axpy(space, a: f64, x: u32, y: u32) { space.axpy(a, Vector(x), Vector(y)) }
    fn dot(space, x: u32, y: u32, out: *mut f64) { space.dot(Vector(x), Vector(y)).map(|value| *out = value) }
    fn map(space, f: u32, a: f64, v: u32) { space.map(map_of(f, a)?, Vector(v)) }
    fn combine(space, op: u32, x: u32, y: u32) { space.combine(combine_of(op)?, Vector(x), Vector(y)) }
    fn decay(space, a: f64, v: u32) { space.decay(a, Vector(v)) }
}

fn map_of(number: u32, a: f64) -> Result<Map> {
    match number {
        1 => Ok(Map::Add(a)),
        2 => Ok(Map::Divide(a)),
        3 => Ok(Map::SquareRoot),
        4 => Ok(Map::Sign),
        5 => Ok(Map::Absolute),
        _ => Err(Error::Engine(format!("the vector operation `map` has no function of number {number}"))),
    }
}

fn combine_of(number: u32) -> Result<Combine> {
    let known = [Combine::Multiply, Combine::Divide, Combine::Maximum];
    let wanted = (number as usize).checked_sub(1).and_then(|i| known.get(i));
    wanted
        .copied()
        .ok_or_else(|| Error::Engine(format!("the vector operation `combine` has no number {number}")))
}

/// A space on the other side.
pub(super) struct RemoteSpace {
    table: VectorTable,
    owner: *mut c_void,
    /// The part whose code runs the operations; `None` if it is the program, as seen from a plugin.
    at: Option<&'static At>,
}

impl RemoteSpace {
    /// # Safety
    /// `table` is null or a valid table. Its functions may be called with `owner` for as long as the result
    /// lives.
    pub(super) unsafe fn new(
        table: *const VectorTable,
        owner: *mut c_void,
        at: Option<&'static At>,
    ) -> Result<Self, TableError> {
        // SAFETY: guaranteed by the caller.
        Ok(RemoteSpace { table: unsafe { read(table) }?, owner, at })
    }

    /// Calls an operation that can fail.
    fn call(
        &self,
        name: &str,
        function: impl FnOnce(&VectorTable, *mut c_void, *const ErrorSink) -> i32,
    ) -> Result<()> {
        let _inside = watch::enter(self.at);
        call(&format_args!("the vector operation `{name}`"), |error| function(&self.table, self.owner, error))
    }
}

fn absent() -> Error {
    Error::Engine("the backend has no elementwise operations".into())
}

impl VectorSpace for RemoteSpace {
    fn dimension(&self) -> usize {
        let _inside = watch::enter(self.at);
        // SAFETY: by the contract of the table. The same applies below.
        fence(|| unsafe { (self.table.dimension)(self.owner) })
    }

    fn allocate(&mut self) -> Result<Vector> {
        let mut v = 0;
        // SAFETY: as above.
        self.call("allocate", |t, owner, error| unsafe { (t.allocate)(owner, &mut v, error) })?;
        Ok(Vector(v))
    }

    fn release(&mut self, v: Vector) {
        let _inside = watch::enter(self.at);
        // SAFETY: as above.
        fence(|| unsafe { (self.table.release)(self.owner, v.0) });
    }

    fn zero(&mut self, v: Vector) -> Result<()> {
        // SAFETY: as above.
        self.call("zero", |t, owner, error| unsafe { (t.zero)(owner, v.0, error) })
    }

    fn copy(&mut self, from: Vector, to: Vector) -> Result<()> {
        // SAFETY: as above.
        self.call("copy", |t, owner, error| unsafe { (t.copy)(owner, from.0, to.0, error) })
    }

    fn scale(&mut self, a: f64, v: Vector) -> Result<()> {
        // SAFETY: as above.
        self.call("scale", |t, owner, error| unsafe { (t.scale)(owner, a, v.0, error) })
    }

    fn axpy(&mut self, a: f64, x: Vector, y: Vector) -> Result<()> {
        // SAFETY: as above.
        self.call("axpy", |t, owner, error| unsafe { (t.axpy)(owner, a, x.0, y.0, error) })
    }

    fn dot(&mut self, x: Vector, y: Vector) -> Result<f64> {
        let mut value = 0.0;
        // SAFETY: as above.
        self.call("dot", |t, owner, error| unsafe { (t.dot)(owner, x.0, y.0, &mut value, error) })?;
        Ok(value)
    }

    fn map(&mut self, f: Map, v: Vector) -> Result<()> {
        let function = self.table.map.ok_or_else(absent)?;
        let (number, a) = match f {
            Map::Add(a) => (1, a),
            Map::Divide(a) => (2, a),
            Map::SquareRoot => (3, 0.0),
            Map::Sign => (4, 0.0),
            Map::Absolute => (5, 0.0),
        };
        // SAFETY: as above.
        self.call("map", |_, owner, error| unsafe { function(owner, number, a, v.0, error) })
    }

    fn combine(&mut self, op: Combine, x: Vector, y: Vector) -> Result<()> {
        let function = self.table.combine.ok_or_else(absent)?;
        let number = match op {
            Combine::Multiply => 1,
            Combine::Divide => 2,
            Combine::Maximum => 3,
        };
        // SAFETY: as above.
        self.call("combine", |_, owner, error| unsafe { function(owner, number, x.0, y.0, error) })
    }

    fn decay(&mut self, a: f64, v: Vector) -> Result<()> {
        let function = self.table.decay.ok_or_else(absent)?;
        // SAFETY: as above.
        self.call("decay", |_, owner, error| unsafe { function(owner, a, v.0, error) })
    }
}

//! A space of vectors, lent across the border: that of a session, or of a bilevel problem.

use std::ffi::c_void;

use super::layout::{Table, TableError, required};
use super::status::{ErrorSink, answer, call};
use crate::{Result, Vector, VectorSpace};

type Unary = unsafe extern "C-unwind" fn(*mut c_void, u32, *const ErrorSink) -> i32;
type Binary = unsafe extern "C-unwind" fn(*mut c_void, u32, u32, *const ErrorSink) -> i32;

/// [`VectorSpace`] as functions. Their first argument is the owner of the space: a session, or the
/// problem's context.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VectorTable {
    /// Bytes of this table.
    pub size: u32,
    /// Number of trainable parameters.
    pub dimension: Option<unsafe extern "C-unwind" fn(*mut c_void) -> usize>,
    /// A new vector of zeros.
    pub allocate: Option<unsafe extern "C-unwind" fn(*mut c_void, *mut u32, *const ErrorSink) -> i32>,
    /// Gives a vector's memory back.
    pub release: Option<unsafe extern "C-unwind" fn(*mut c_void, u32)>,
    /// `v <- 0`.
    pub zero: Option<Unary>,
    /// `to <- from`: from, to.
    pub copy: Option<Binary>,
    /// `v <- a v`: a, v.
    pub scale: Option<unsafe extern "C-unwind" fn(*mut c_void, f64, u32, *const ErrorSink) -> i32>,
    /// `y <- y + a x`: a, x, y.
    pub axpy: Option<unsafe extern "C-unwind" fn(*mut c_void, f64, u32, u32, *const ErrorSink) -> i32>,
    /// `<x, y>`.
    pub dot: Option<unsafe extern "C-unwind" fn(*mut c_void, u32, u32, *mut f64, *const ErrorSink) -> i32>,
}

// SAFETY: repr(C), begins with its size, absent functions are null.
unsafe impl Table for VectorTable {
    const NAME: &'static str = "table of vector operations";
    const REQUIRED: usize = size_of::<Self>();
}

/// The owner of a space, as the functions of an exported table find it behind their first argument.
pub(super) trait Owner {
    fn vectors(&mut self) -> &mut dyn VectorSpace;
}

/// The table of a space whose owner is an `O`.
pub(super) const fn export<O: Owner>() -> VectorTable {
    VectorTable {
        size: size_of::<VectorTable>() as u32,
        dimension: Some(dimension::<O>),
        allocate: Some(allocate::<O>),
        release: Some(release::<O>),
        zero: Some(zero::<O>),
        copy: Some(copy::<O>),
        scale: Some(scale::<O>),
        axpy: Some(axpy::<O>),
        dot: Some(dot::<O>),
    }
}

/// # Safety
/// The owner is an `O` that nobody else uses meanwhile; so for all functions here.
unsafe fn space<'a, O: Owner + 'a>(owner: *mut c_void) -> &'a mut dyn VectorSpace {
    // SAFETY: the caller's.
    unsafe { (*owner.cast::<O>()).vectors() }
}

unsafe extern "C-unwind" fn dimension<O: Owner>(owner: *mut c_void) -> usize {
    // SAFETY: by the contract of the table; so below.
    unsafe { space::<O>(owner).dimension() }
}

unsafe extern "C-unwind" fn allocate<O: Owner>(
    owner: *mut c_void,
    out: *mut u32,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || space::<O>(owner).allocate().map(|v| *out = v.0)) }
}

unsafe extern "C-unwind" fn release<O: Owner>(owner: *mut c_void, v: u32) {
    // SAFETY: as above.
    unsafe { space::<O>(owner).release(Vector(v)) }
}

unsafe extern "C-unwind" fn zero<O: Owner>(owner: *mut c_void, v: u32, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || space::<O>(owner).zero(Vector(v))) }
}

unsafe extern "C-unwind" fn copy<O: Owner>(
    owner: *mut c_void,
    from: u32,
    to: u32,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || space::<O>(owner).copy(Vector(from), Vector(to))) }
}

unsafe extern "C-unwind" fn scale<O: Owner>(
    owner: *mut c_void,
    a: f64,
    v: u32,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || space::<O>(owner).scale(a, Vector(v))) }
}

unsafe extern "C-unwind" fn axpy<O: Owner>(
    owner: *mut c_void,
    a: f64,
    x: u32,
    y: u32,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || space::<O>(owner).axpy(a, Vector(x), Vector(y))) }
}

unsafe extern "C-unwind" fn dot<O: Owner>(
    owner: *mut c_void,
    x: u32,
    y: u32,
    out: *mut f64,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || space::<O>(owner).dot(Vector(x), Vector(y)).map(|value| *out = value)) }
}

/// A space on the other side.
pub(super) struct Imported {
    table: VectorTable,
    owner: *mut c_void,
}

impl Imported {
    /// # Safety
    /// `table` is null or a valid table; its functions may be called with `owner` for as long as the
    /// result lives.
    pub(super) unsafe fn new(table: *const VectorTable, owner: *mut c_void) -> Result<Self, TableError> {
        // SAFETY: the caller's.
        let table = unsafe { super::layout::read(table) }?;
        required!(table, VectorTable, dimension, allocate, release, zero, copy, scale, axpy, dot);
        Ok(Imported { table, owner })
    }
}

/// Calls a function that `new` made sure of.
macro_rules! operation {
    ($self:ident.$name:ident($($argument:expr),*)) => {{
        let function = $self.table.$name.expect("checked on import");
        // SAFETY: by the contract of the table.
        call(&concat!("the vector operation `", stringify!($name), "`"), |error| unsafe {
            function($self.owner, $($argument,)* error)
        })
    }};
}

impl VectorSpace for Imported {
    fn dimension(&self) -> usize {
        // SAFETY: by the contract of the table; so below.
        unsafe { self.table.dimension.expect("checked on import")(self.owner) }
    }

    fn allocate(&mut self) -> Result<Vector> {
        let mut v = 0;
        operation!(self.allocate(&raw mut v)).map(|()| Vector(v))
    }

    fn release(&mut self, v: Vector) {
        // SAFETY: as above.
        unsafe { self.table.release.expect("checked on import")(self.owner, v.0) }
    }

    fn zero(&mut self, v: Vector) -> Result<()> {
        operation!(self.zero(v.0))
    }

    fn copy(&mut self, from: Vector, to: Vector) -> Result<()> {
        operation!(self.copy(from.0, to.0))
    }

    fn scale(&mut self, a: f64, v: Vector) -> Result<()> {
        operation!(self.scale(a, v.0))
    }

    fn axpy(&mut self, a: f64, x: Vector, y: Vector) -> Result<()> {
        operation!(self.axpy(a, x.0, y.0))
    }

    fn dot(&mut self, x: Vector, y: Vector) -> Result<f64> {
        let mut value = 0.0;
        operation!(self.dot(x.0, y.0, &raw mut value)).map(|()| value)
    }
}

//! Matrix products of slices: a safe face for the `gemm` crate.
#![allow(unsafe_code)]

use gemm::Parallelism;

/// A matrix in a slice: element (i, j) is `values[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> View<'a> {
    /// `columns` of the columns of a row-major matrix whose rows are `stride` long.
    pub fn strided(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        View { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// A row-major matrix.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// Its transpose.
    pub fn t(self) -> Self {
        View {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn check(&self) {
        assert!(fits(self.values.len(), self.rows, self.row_stride, self.columns, self.column_stride));
    }
}

fn fits(len: usize, rows: usize, row_stride: usize, columns: usize, column_stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_stride + (columns - 1) * column_stride < len
}

/// Where a product goes: the columns `0..columns` of rows `stride` apart.
pub(super) struct Target<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
}

/// Whether a product is computed by all threads or, inside a task, by this one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    All,
    One,
}

/// `into <- keep * into + scale * a b`. With `keep` 0, `into` is only written.
pub(super) fn product(into: Target<'_>, keep: f32, scale: f32, a: View<'_>, b: View<'_>, threads: Threads) {
    let Target { values, stride } = into;
    assert!(stride >= b.columns && fits(values.len(), a.rows, stride, b.columns, 1));
    // SAFETY: the elements of the target are within `values`, no two of them at one place, and
    // `values` is borrowed mutably.
    unsafe { run(values.as_mut_ptr(), stride, keep, scale, a, b, threads) }
}

/// `a b`, row-major.
pub(super) fn multiplied(a: View<'_>, b: View<'_>) -> Vec<f32> {
    let n = a.rows * b.columns;
    if a.columns == 0 {
        return vec![0.0; n];
    }
    let mut values = Vec::with_capacity(n);
    // SAFETY: the product writes all `n` elements without reading them (`keep` is 0 and the inner
    // dimension is not). Zeroing the memory first would cost a pass over every activation.
    unsafe {
        run(values.as_mut_ptr(), b.columns, 0.0, 1.0, a, b, Threads::All);
        values.set_len(n);
    }
    values
}

/// # Safety
/// The `a.rows` times `b.columns` elements at `into`, in rows `stride` apart, are valid for writing,
/// are distinct, and no one else uses them; unless `keep` is 0, they are initialised.
unsafe fn run(
    into: *mut f32,
    stride: usize,
    keep: f32,
    scale: f32,
    a: View<'_>,
    b: View<'_>,
    threads: Threads,
) {
    assert_eq!(a.columns, b.rows, "inner dimensions differ");
    a.check();
    b.check();
    let parallelism = match threads {
        Threads::All => Parallelism::Rayon(0),
        Threads::One => Parallelism::None,
    };
    // SAFETY: sources were checked to lie within their slices, the target is the caller's promise.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            into,
            1,
            stride as isize,
            keep != 0.0,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            keep,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

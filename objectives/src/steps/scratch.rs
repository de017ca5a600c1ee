use spo_api::{BilevelProblem, Result, Vector};

/// Runs `f` with `count` scratch vectors and gives their memory back, whether or not `f` fails.
pub(super) fn with_scratch<T>(
    problem: &mut dyn BilevelProblem,
    count: usize,
    f: impl FnOnce(&mut dyn BilevelProblem, &[Vector]) -> Result<T>,
) -> Result<T> {
    let mut scratch = Vec::with_capacity(count);
    let allocated = (0..count).try_for_each(|_| problem.vectors().allocate().map(|v| scratch.push(v)));
    let result = allocated.and_then(|()| f(problem, &scratch));
    scratch.into_iter().for_each(|v| problem.vectors().release(v));
    result
}

/// Runs `f`, which may move the parameters, and puts them back bit for bit, whether or not `f` fails.
/// It is shown the vector that keeps their home.
pub(super) fn excursion<T>(
    problem: &mut dyn BilevelProblem,
    f: impl FnOnce(&mut dyn BilevelProblem, Vector) -> Result<T>,
) -> Result<T> {
    with_scratch(problem, 1, |problem, scratch| {
        let home = scratch[0];
        problem.vectors().copy(Vector::PARAMETERS, home)?;
        let result = f(problem, home);
        problem.vectors().copy(home, Vector::PARAMETERS)?;
        result
    })
}

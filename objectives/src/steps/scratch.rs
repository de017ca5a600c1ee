use spo_api::{BilevelProblem, Result, Vector};

/// Runs `f` with a scratch vector and gives its memory back, whether or not `f` fails.
pub(super) fn with_scratch<T>(
    problem: &mut dyn BilevelProblem,
    f: impl FnOnce(&mut dyn BilevelProblem, Vector) -> Result<T>,
) -> Result<T> {
    let scratch = problem.vectors().allocate()?;
    let result = f(problem, scratch);
    problem.vectors().release(scratch);
    result
}

/// Runs `f`, which may move the parameters, and puts them back bit for bit, whether or not `f` fails.
pub(super) fn excursion<T>(
    problem: &mut dyn BilevelProblem,
    f: impl FnOnce(&mut dyn BilevelProblem) -> Result<T>,
) -> Result<T> {
    with_scratch(problem, |problem, home| {
        problem.vectors().copy(Vector::PARAMETERS, home)?;
        let result = f(problem);
        problem.vectors().copy(home, Vector::PARAMETERS)?;
        result
    })
}

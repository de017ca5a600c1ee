use spo_api::{BilevelProblem, Result, Vector, with_scratch};

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

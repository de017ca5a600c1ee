use spo_api::{BilevelProblem, Result, Vector, with_scratch};

/// Runs `f`, which may change the parameters, and then restores them bit for bit, even if `f` fails. `f`
/// receives the vector that holds the original parameters.
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

//! Answers judged by their task: for tasks where right and wrong is not all there is to say.

use anyhow::Result;
use spo_api::{Metrics, Sampling, Session};
use spo_data::task::Judge;
use spo_data::{Dataset, Tokenizer};

/// Answers every prompt by greedy decoding, half as long again as the longest preferred answer at most, and takes the
/// mean of what the judge says: `eval_NAME` for each of its figures.
///
/// # Errors
/// Those of the session.
pub fn judged(
    session: &mut dyn Session,
    data: &Dataset,
    tokenizer: &Tokenizer,
    judge: Judge,
) -> Result<Metrics> {
    let questions: Vec<(&Vec<u32>, &Vec<u32>)> = data
        .examples
        .iter()
        .filter(|example| example.desirable)
        .map(|example| (&example.groups[0].prompt, &example.groups[0].completions[0]))
        .collect();
    let context = session.info().context;
    let longest = questions.iter().map(|(prompt, _)| prompt.len()).max().unwrap_or(0);
    let wanted = questions.iter().map(|(_, answer)| answer.len()).max().unwrap_or(0);
    let stop = tokenizer.stop_tokens();
    let max_new_tokens = (wanted * 3 / 2).min(context.saturating_sub(longest));
    let sampling = Sampling { max_new_tokens, temperature: 0.0, top_p: 1.0, seed: 0, stop: stop.to_vec() };
    let text = |ids: &[u32]| {
        let end = ids.len() - usize::from(ids.last().is_some_and(|id| stop.contains(id)));
        tokenizer.decode(&ids[..end])
    };
    let mut means = Metrics::new();
    for chunk in questions.chunks(100) {
        let prompts: Vec<Vec<u32>> = chunk.iter().map(|(prompt, _)| (*prompt).clone()).collect();
        let answers = session.generate(&prompts, &sampling)?;
        for ((prompt, expected), answer) in chunk.iter().zip(&answers) {
            for (name, figure) in judge(&text(prompt)?, &text(expected)?, &text(answer)?) {
                *means.entry(format!("eval_{name}")).or_default() += figure / questions.len() as f64;
            }
        }
    }
    Ok(means)
}

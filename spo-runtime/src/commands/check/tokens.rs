//! `check --tokens`: rows token by token, with what is trained on.

use console::Style;
use spo_data::{Dataset, Tokenizer};

use crate::reporter::say_styled;

/// Shows the first rows of the training sets: every token with its id. What is trained on has the mask 1.
///
/// # Errors
/// When rows are in a file that cannot be read.
pub(super) fn show(sets: &[&Dataset], tokenizer: &Tokenizer, count: usize) -> spo_api::Result<()> {
    let [plain, dim, trained] = [Style::new(), Style::new().dim(), Style::new().green()];
    say_styled(&[
        (&plain, "\ntokens: "),
        (&dim, "mask 0, read only"),
        (&plain, "; "),
        (&trained, "mask 1, trained on"),
        (&plain, "\n"),
    ]);
    for example in sets.iter().flat_map(|data| data.examples.iter().take(count)) {
        say_styled(&[(&plain, &*format!("  {}\n", example.place))]);
        let mut answer = 0;
        for group in &*example.groups()? {
            line("0", &group.prompt, tokenizer, &dim);
            for completion in &group.completions {
                let mut read = 0;
                for span in example.scored(answer, completion.len()) {
                    line("0", &completion[read..span.start], tokenizer, &dim);
                    read = span.end;
                    line("1", &completion[span], tokenizer, &trained);
                }
                line("0", &completion[read..], tokenizer, &dim);
                answer += 1;
            }
        }
    }
    Ok(())
}

/// Tokens of one mask.
fn line(mask: &str, ids: &[u32], tokenizer: &Tokenizer, style: &Style) {
    if ids.is_empty() {
        return;
    }
    let shown = |id: &u32| match tokenizer.decode(&[*id]) {
        Ok(text) => format!("{id} {text:?}"),
        Err(error) => format!("{id} <{error}>"),
    };
    let tokens: Vec<String> = ids.iter().map(shown).collect();
    let plain = Style::new();
    say_styled(&[(&plain, &*format!("    mask {mask}  ")), (style, &*tokens.join("  ")), (&plain, "\n")]);
}

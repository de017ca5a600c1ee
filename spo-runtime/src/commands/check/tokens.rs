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
        for group in &*example.groups()? {
            line("0", &group.prompt, tokenizer, &dim);
            for completion in &group.completions {
                line("1", completion, tokenizer, &trained);
            }
        }
    }
    Ok(())
}

/// Tokens of one mask.
fn line(mask: &str, ids: &[u32], tokenizer: &Tokenizer, style: &Style) {
    let shown = |id: &u32| match tokenizer.decode(&[*id]) {
        Ok(text) => format!("{id} {text:?}"),
        Err(error) => format!("{id} <{error}>"),
    };
    let tokens: Vec<String> = ids.iter().map(shown).collect();
    let plain = Style::new();
    say_styled(&[(&plain, &*format!("    mask {mask}  ")), (style, &*tokens.join("  ")), (&plain, "\n")]);
}

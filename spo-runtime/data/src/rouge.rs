//! ROUGE-L of two texts (Lin 2004), with the words of the `rouge_score` package.

use crate::stem::stem;

/// F-measure of the longest common subsequence of words, as `rouge_score` computes it: words are runs of `a` to `z` and
/// digits after lower-casing; with `stemming`, those of more than three letters are reduced to their stems.
pub fn rouge_l(expected: &str, answer: &str, stemming: bool) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.map(|word| if stemming && word.len() > 3 { stem(word) } else { word.to_owned() }).collect()
    };
    f_measure(&words(expected), &words(answer))
}

/// F-measure of the longest common subsequence of two lists.
pub(crate) fn f_measure(expected: &[String], answer: &[String]) -> f64 {
    // For each prefix of `answer`: length of its longest common subsequence with the words of `expected` so
    // far.
    let mut longest = vec![0; answer.len() + 1];
    for word in expected {
        let mut diagonal = 0;
        for (i, other) in answer.iter().enumerate() {
            let above = longest[i + 1];
            longest[i + 1] = if word == other { diagonal + 1 } else { above.max(longest[i]) };
            diagonal = above;
        }
    }
    let common = f64::from(longest[answer.len()]);
    if common == 0.0 { 0.0 } else { 2.0 * common / (expected.len() + answer.len()) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_rouge_score() {
        let golden = include_str!("../../../tests/goldens/rouge.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        for pair in golden["pairs"].as_array().unwrap() {
            let [expected, answer] = ["target", "prediction"].map(|key| pair[key].as_str().unwrap());
            for (key, stemming) in [("rouge_l", false), ("rouge_l_stemmed", true)] {
                let [found, wanted] = [rouge_l(expected, answer, stemming), pair[key].as_f64().unwrap()];
                assert!((found - wanted).abs() < 1e-12, "{expected:?} {answer:?}: {found} is not {wanted}");
            }
        }
    }
}

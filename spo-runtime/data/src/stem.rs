//! Stems of English words: Porter's algorithm (1980) with NLTK's extensions, which is what the `rouge_score` package uses.

/// Words that follow no rule, and their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Suffixes that are replaced if the rest has a positive measure. The first that matches decides.
const STEP_2: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

/// The same.
const STEP_3: [(&str, &str); 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Suffixes that are removed if the rest has a measure above 1.
const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
    "ate", "iti", "ous", "ive", "ize",
];

/// The stem of a word of `a` to `z` and digits.
pub(crate) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let word = past(&plural(word));
    let word = match word.strip_suffix('y') {
        Some(rest) if rest.len() > 1 && consonants(rest).last() == Some(&true) => format!("{rest}i"),
        _ => word,
    };
    end(&derived(&replaced(&nominal(&word), &STEP_3)))
}

/// Step 1a.
fn plural(word: &str) -> String {
    match word.strip_suffix("ies") {
        Some(rest) if word.len() == 4 => return format!("{rest}ie"),
        Some(rest) => return format!("{rest}i"),
        None => {}
    }
    if word.ends_with("sses") {
        return word[..word.len() - 2].to_owned();
    }
    match word.strip_suffix('s') {
        Some(rest) if !rest.ends_with('s') => rest.to_owned(),
        _ => word.to_owned(),
    }
}

/// Step 1b.
fn past(word: &str) -> String {
    if let Some(rest) = word.strip_suffix("ied") {
        return format!("{rest}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(rest) = word.strip_suffix("eed") {
        return if measure(rest) > 0 { format!("{rest}ee") } else { word.to_owned() };
    }
    let voiced = |rest: &&str| consonants(rest).contains(&false);
    let Some(rest) = ["ed", "ing"].into_iter().find_map(|end| word.strip_suffix(end).filter(voiced)) else {
        return word.to_owned();
    };
    if ["at", "bl", "iz"].iter().any(|end| rest.ends_with(end)) {
        return format!("{rest}e");
    }
    let bytes = rest.as_bytes();
    let doubled = bytes.len() >= 2
        && bytes[bytes.len() - 1] == bytes[bytes.len() - 2]
        && consonants(rest).last() == Some(&true);
    match doubled {
        true if rest.ends_with(['l', 's', 'z']) => rest.to_owned(),
        true => rest[..rest.len() - 1].to_owned(),
        false if measure(rest) == 1 && is_short(rest) => format!("{rest}e"),
        false => rest.to_owned(),
    }
}

/// Step 2.
fn nominal(word: &str) -> String {
    if let Some(rest) = word.strip_suffix("alli").filter(|rest| measure(rest) > 0) {
        return nominal(&format!("{rest}al"));
    }
    if !STEP_2.iter().any(|(suffix, _)| word.ends_with(suffix)) {
        // The `l` belongs to the stem, so that short ones (`geo`) work like long ones (`archaeo`).
        if let Some(rest) = word.strip_suffix("ogi").filter(|rest| rest.ends_with('l') && measure(rest) > 0) {
            return format!("{rest}og");
        }
    }
    replaced(word, &STEP_2)
}

/// Replaces the first suffix that matches, if the rest has a positive measure.
fn replaced(word: &str, rules: &[(&str, &str)]) -> String {
    let rule = rules.iter().find_map(|(suffix, by)| Some((word.strip_suffix(suffix)?, by)));
    match rule.filter(|(rest, _)| measure(rest) > 0) {
        Some((rest, by)) => format!("{rest}{by}"),
        None => word.to_owned(),
    }
}

/// Step 4.
fn derived(word: &str) -> String {
    let rule = STEP_4.iter().find_map(|suffix| Some((word.strip_suffix(suffix)?, *suffix)));
    let fits =
        |(rest, suffix): &(&str, &str)| measure(rest) > 1 && (*suffix != "ion" || rest.ends_with(['s', 't']));
    rule.filter(fits).map_or(word, |(rest, _)| rest).to_owned()
}

/// Step 5.
fn end(word: &str) -> String {
    let without = word.strip_suffix('e').filter(|rest| {
        let measure = measure(rest);
        measure > 1 || measure == 1 && !is_short(rest)
    });
    let word = without.unwrap_or(word);
    let one = &word[..word.len().saturating_sub(1)];
    if word.ends_with("ll") && measure(one) > 1 { one } else { word }.to_owned()
}

/// For each letter, whether it is a consonant. A `y` is one unless it follows one.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !flags.last().copied().unwrap_or(false),
            _ => true,
        });
    }
    flags
}

/// How often a vowel is followed by a consonant.
fn measure(word: &str) -> usize {
    consonants(word).windows(2).filter(|two| !two[0] && two[1]).count()
}

/// Whether a word ends in consonant, vowel, consonant (other than `w`, `x`, `y`), or consists of a vowel and a consonant.
fn is_short(word: &str) -> bool {
    match consonants(word)[..] {
        [false, true] => true,
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_are_those_of_nltk() {
        let golden = include_str!("../../../tests/goldens/rouge.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        let stems = golden["stems"].as_object().unwrap();
        assert!(stems.len() > 500);
        for (word, expected) in stems {
            assert_eq!(stem(word), *expected, "{word}");
        }
    }
}

//! Searching for a part of a text in any case: both sides are folded here, so that every engine
//! finds the same (SQLite's own `lower` and `like` fold ASCII only).
//!
//! Deliberately absent: ignoring accents, and other forms of the same character (NFC, NFD).

/// What stands between the texts that are searched as one: it cannot be typed, so nothing is
/// found across them.
const BETWEEN: &str = "\n";

/// A text without its case. A sigma at a word's end is a sigma.
pub fn folded(text: &str) -> String {
    let lower = text.to_lowercase();
    match lower.contains('ς') {
        true => lower.replace('ς', "σ"),
        false => lower,
    }
}

/// The texts that are searched, as one.
pub fn searchable<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<_> = texts.into_iter().collect();
    folded(&texts.join(BETWEEN))
}

/// The pattern for `like … escape '\'` that finds whatever has `part` in it.
pub fn pattern(part: &str) -> String {
    let mut pattern = String::with_capacity(part.len() + 2);
    pattern.push('%');
    for c in folded(part).chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_themselves() {
        assert_eq!(pattern(r"5%_\"), r"%5\%\_\\%");
    }

    #[test]
    fn a_sigma_is_found_wherever_it_stands() {
        assert_eq!(folded("ΟΔΟΣ"), "οδοσ");
        assert!(folded("Οδός").contains(&folded("ΔΌΣ")));
    }
}

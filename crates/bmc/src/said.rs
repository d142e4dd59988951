//! A BMC's own words, fit to be shown: what comes from outside is cut and stripped before a person sees it.

/// The longest text of a BMC's that is shown, in characters.
const LONGEST: usize = 300;

/// A text in one line, without control characters and those that turn the order of writing around, cut.
pub fn said(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let text: String = text.chars().map(|c| if hidden(c) { ' ' } else { c }).take(8 * LONGEST).collect();
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_and_tricks_are_not() {
        assert_eq!(said("  The\r\n property\u{202e} \x1b[31mis  bad "), "The property [31mis bad");
        assert_eq!(said(&"x".repeat(10_000)).len(), LONGEST);
    }
}

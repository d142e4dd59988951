//! The grammar of one kernel argument, so that no argument can become an iPXE command.
//!
//! iPXE splits a script line at white space before it expands `${…}`; `||`, `&&` and `;` as whole words
//! end a command, a word that begins with `#` ends the line, and a backslash at its end joins lines
//! (iPXE core/exec.c and core/script.c; Ironic's CVE-2026-46447 came from not knowing).

/// Why a text is not one kernel argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// It is empty.
    #[error("is empty; leave the item out, or let an {{% if %}} wrap the whole list in another Profile")]
    Empty,
    /// It holds white space, a control character, a quote, or something that is not ASCII.
    #[error("has {0:?} in it; an argument is one word of printable ASCII without quotes")]
    Character(char),
    /// iPXE would end the command there.
    #[error("is {0:?}, which ends a command in iPXE")]
    Terminator(String),
    /// iPXE would ignore the rest of the line.
    #[error("begins with '#', which begins a comment in iPXE")]
    Comment,
    /// iPXE would join the next line.
    #[error("ends with a backslash, which joins lines in iPXE")]
    TrailingBackslash,
    /// Longer than a kernel argument can be.
    #[error("has {0} characters; at most 1024 are taken")]
    TooLong(usize),
}

/// Checks one rendered argument.
///
/// # Errors
/// What is wrong with it, as a sentence that goes on from the argument's name.
pub fn check(argument: &str) -> Result<(), ArgumentError> {
    if argument.is_empty() {
        return Err(ArgumentError::Empty);
    }
    if argument.len() > 1024 {
        return Err(ArgumentError::TooLong(argument.len()));
    }
    if let Some(bad) = argument.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '\'' | '`')) {
        return Err(ArgumentError::Character(bad));
    }
    if matches!(argument, "||" | "&&" | ";") {
        return Err(ArgumentError::Terminator(argument.to_owned()));
    }
    if argument.starts_with('#') {
        return Err(ArgumentError::Comment);
    }
    if argument.ends_with('\\') {
        return Err(ArgumentError::TrailingBackslash);
    }
    Ok(())
}

/// Makes a text fit for `echo` in a script: anything but plain words and marks becomes a space.
pub fn for_echo(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".,:/()-_=".contains(c);
    let text: String = text.chars().take(200).map(|c| if plain(c) { c } else { ' ' }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

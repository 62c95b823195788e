//! The functions of the product as its text has them: how long each is, and what its documentation begins with. Reads what
//! rustfmt has formatted, where a function ends with a brace that is indented as its first line.

use std::path::{Path, PathBuf};

pub struct Function {
    pub file: PathBuf,
    pub name: String,
    pub lines: usize,
    pub public: bool,
    /// The first word of its documentation.
    pub begins: Option<String>,
}

/// Reads the functions of a file, without those of its tests.
pub fn of(file: &Path, text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.iter().position(|line| *line == "mod tests {").unwrap_or(lines.len());
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate().take(tests) {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let (public, rest) = code.strip_prefix("pub ").map_or((false, code), |rest| (true, rest));
        let rest = rest.strip_prefix("pub(crate) ").or(rest.strip_prefix("pub(super) ")).unwrap_or(rest);
        let rest = ["const ", "async ", "unsafe "].iter().fold(rest, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
        let Some(rest) = rest.strip_prefix("fn ") else { continue };
        let name = rest.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).next().unwrap_or_default().to_owned();
        let end = format!("{}}}", " ".repeat(indent));
        let one_line = line.ends_with('}') || line.ends_with(';');
        let lines_of_it = if one_line {
            1
        } else {
            lines[at..]
                .iter()
                .position(|line| *line == end || line.ends_with(';') && line.len() - line.trim_start().len() == indent)
                .map_or(1, |last| last + 1)
        };
        let above = lines[..at].iter().rev().skip_while(|line| line.trim_start().starts_with("#["));
        let first = above.take_while(|line| line.trim_start().starts_with("///")).last();
        let begins = first
            .and_then(|line| line.trim_start()[3..].split_whitespace().next())
            .map(|word| word.trim_matches(['.', ',', ';', ':']).to_owned());
        found.push(Function { file: file.to_owned(), name, lines: lines_of_it, public, begins });
    }
    found
}

/// Tells whether a word may begin the documentation of a function: a verb in the third person, such as `Returns`.
pub fn is_verb(word: &str) -> bool {
    word.starts_with(|letter: char| letter.is_ascii_uppercase())
        && word.ends_with('s')
        && word.chars().skip(1).all(|letter| letter.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_and_what_their_documentation_begins_with_is_read() {
        let text = "/// Returns one.\n/// Of two.\n#[must_use]\npub fn one() -> u8 {\n    if true {\n        1\n    } else {\n        2\n    }\n}\n\nimpl X {\n    async fn two(&self) {}\n    /// Of it.\n    pub const fn three() {\n    }\n}\n\nmod tests {\n    fn four() {}\n}\n";
        let found = of(Path::new("x.rs"), text);
        let short: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.lines, it.public, it.begins.as_deref())).collect();
        assert_eq!(short, [("one", 7, true, Some("Returns")), ("two", 1, false, None), ("three", 2, true, Some("Of"))]);
        assert!(is_verb("Returns") && is_verb("Tells") && !is_verb("Of") && !is_verb("The") && !is_verb("its"));
    }
}

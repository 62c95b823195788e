//! References to secrets, resolved when a process starts and kept out of everything that is shown.

use std::{fs, io, path::PathBuf};

/// Bytes of a value below which it is shown: nobody hides a secret behind three characters.
const HIDDEN_BYTES_MIN: usize = 4;

/// Source of what `secret:NAME` stands for.
pub trait SecretSource: Send + Sync + 'static {
    /// Returns the value, without a trailing newline. Errors say what is missing, never what the value is.
    fn secret(&self, name: &str) -> Result<String, String>;
}

/// Secrets in a directory, one file of mode 0600 for each.
pub struct SecretFiles {
    pub dir: PathBuf,
}

impl SecretSource for SecretFiles {
    fn secret(&self, name: &str) -> Result<String, String> {
        let plain =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) && !name.starts_with('.');
        if !plain {
            return Err("a secret's name is letters, digits, `_`, `-` and `.`".to_owned());
        }
        let path = self.dir.join(name);
        let open_to_others =
            fs::metadata(&path).is_ok_and(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o077 != 0);
        if open_to_others {
            return Err(format!("secret {name} is readable by others: it must have mode 0600"));
        }
        read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => format!("there is no secret {name} on this node"),
            _ => format!("secret {name} cannot be read: {e}"),
        })
    }
}

fn read(path: &std::path::Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

/// Environment with its references replaced, and what was put in for them.
#[derive(Clone, Default)]
pub(super) struct Resolved {
    pub env: Vec<(String, String)>,
    secrets: Vec<String>,
}

impl Resolved {
    /// Adds a variable; a later one of the same name wins.
    pub(super) fn add(&mut self, source: &dyn SecretSource, name: &str, value: &str) -> Result<(), String> {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("{name:?} is no name for a variable"));
        }
        let value = if let Some(secret) = value.strip_prefix("secret:") {
            self.hide(source.secret(secret).map_err(|e| format!("variable {name}: {e}"))?)
        } else if let Some(path) = value.strip_prefix("file:") {
            self.hide(read(path.as_ref()).map_err(|e| format!("variable {name}: file {path} cannot be read: {e}"))?)
        } else {
            value.to_owned()
        };
        if value.contains('\0') {
            return Err(format!("variable {name} holds a zero byte"));
        }
        self.set(name, value);
        Ok(())
    }

    pub(super) fn set(&mut self, name: &str, value: String) {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value));
    }

    fn hide(&mut self, value: String) -> String {
        // Very short values would blank out ordinary words.
        if value.len() >= HIDDEN_BYTES_MIN {
            // What programs say is often JSON, where a line's end or a quote of it looks different.
            let quoted = serde_json::Value::from(value.as_str()).to_string();
            let quoted = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
            for form in [value.as_str(), quoted] {
                if !self.secrets.iter().any(|known| known == form) {
                    self.secrets.push(form.to_owned());
                }
            }
            // Of two of which one holds the other the longer goes first: else its rest would stay.
            self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
        value
    }

    /// Returns `text` without any of the secrets, as they are or as they stand within a string of JSON.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secrets(all: &[(&str, &str)]) -> (tempfile::TempDir, SecretFiles) {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in all {
            let path = dir.path().join(name);
            fs::write(&path, value).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let files = SecretFiles { dir: dir.path().to_owned() };
        (dir, files)
    }

    fn with(source: &SecretFiles, variables: &[(&str, &str)]) -> Resolved {
        let mut resolved = Resolved::default();
        for (name, value) in variables {
            resolved.add(source, name, value).unwrap();
        }
        resolved
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_last_line_end_and_only_if_nobody_else_may_read_it() {
        let (dir, source) = secrets(&[("API.key-1_a", "s3cret\n"), ("two", "a\n\n"), ("open", "s3cret"), (".hidden", "s3cret")]);
        assert_eq!(source.secret("API.key-1_a").unwrap(), "s3cret");
        assert_eq!(source.secret("two").unwrap(), "a\n");
        for mode in [0o640, 0o604, 0o610, 0o601] {
            fs::set_permissions(dir.path().join("open"), fs::Permissions::from_mode(mode)).unwrap();
            assert!(source.secret("open").unwrap_err().contains("readable by others"), "{mode:o}");
        }
        assert!(source.secret("none").unwrap_err().contains("there is no secret none"));
        for name in ["", ".hidden", "../two", "a/b", "nul\0", "wört"] {
            assert!(source.secret(name).unwrap_err().contains("a secret's name is"), "{name:?}");
        }
        fs::create_dir(dir.path().join("dir")).unwrap();
        fs::set_permissions(dir.path().join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(source.secret("dir").unwrap_err().contains("secret dir cannot be read"));
    }

    #[test]
    fn references_are_replaced_and_a_later_variable_of_a_name_wins() {
        let (dir, source) = secrets(&[("key", "s3cret-of-one\n"), ("other", "file-content\n")]);
        let file = format!("file:{}", dir.path().join("other").display());
        let resolved = with(&source, &[("A", "plain"), ("KEY", "secret:key"), ("F", &file), ("A", "later")]);
        let env: Vec<(&str, &str)> = resolved.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(env, [("KEY", "s3cret-of-one"), ("F", "file-content"), ("A", "later")]);
        let said = resolved.redact("plain, s3cret-of-one, file-content");
        assert_eq!(said, "plain, ***, ***");
    }

    #[test]
    fn a_variable_that_no_process_can_be_given_is_refused_by_its_name() {
        let (dir, source) = secrets(&[("zero", "a\0b")]);
        let mut resolved = Resolved::default();
        for name in ["", "A=B", "A\0"] {
            assert!(resolved.add(&source, name, "x").unwrap_err().contains("is no name for a variable"), "{name:?}");
        }
        assert!(resolved.add(&source, "Z", "secret:zero").unwrap_err().contains("variable Z holds a zero byte"));
        assert!(resolved.add(&source, "N", "secret:none").unwrap_err().starts_with("variable N: there is no secret none"));
        let missing = format!("file:{}", dir.path().join("missing").display());
        assert!(resolved.add(&source, "F", &missing).unwrap_err().contains("cannot be read"));
        assert!(resolved.env.is_empty());
    }

    #[test]
    fn no_secret_is_left_in_a_text_not_of_two_that_begin_alike_nor_as_json_shows_it() {
        let (_dir, source) = secrets(&[
            ("short", "abc"),
            ("four", "abcd"),
            ("long", "token-1"),
            ("longer", "token-1-of-another"),
            ("lines", "-----KEY\nof \"me\"\n-----\n"),
        ]);
        let names = ["short", "four", "long", "longer", "lines"];
        let mut resolved = Resolved::default();
        for name in names {
            resolved.add(&source, name, &format!("secret:{name}")).unwrap();
        }
        assert_eq!(resolved.redact("token-1-of-another token-1 abc abcd"), "*** *** abc ***");
        let key = "-----KEY\nof \"me\"\n-----";
        assert_eq!(resolved.redact(&format!("it is {key}.")), "it is ***.");
        let json = serde_json::json!({ "key": key }).to_string();
        assert_eq!(resolved.redact(&json), r#"{"key":"***"}"#);
        assert_eq!(Resolved::default().redact("token-1"), "token-1");
    }
}

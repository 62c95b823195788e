//! References to secrets, resolved when a process starts and kept out of everything that is shown.

use std::{fs, io, path::PathBuf};

/// Where `secret:NAME` comes from.
pub trait SecretSource: Send + Sync + 'static {
    /// The value, without a trailing newline. Errors say what is missing, never what the value is.
    fn secret(&self, name: &str) -> Result<String, String>;
}

/// One file per secret, in a directory, each of mode 0600.
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
        if value.len() >= 4 {
            self.secrets.push(value.clone());
        }
        value
    }

    /// `text` without any of the secrets.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

//! Makes and reads the token of a pass, which says whose it is, and proves that this node made it.
//!
//! Nothing is stored but the key: after a restart of the node the tokens that agents still hold are as good as before.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hiveward_kernel::{
    id::{AgentId, TaskId},
    lease::Lease,
};
use hiveward_runtime::file::replace;

const PREFIX: &str = "hwm_";
const KEY_FILE: &str = "model.key";
/// The bytes of the task, the attempt, the agent and the incarnation.
const BODY_BYTES: usize = 16 + 4 + 16 + 8;
const MAC_BYTES: usize = blake3::OUT_LEN;

/// The key that this node signs its passes with.
#[derive(Clone)]
pub struct PassKey([u8; blake3::KEY_LEN]);

impl std::fmt::Debug for PassKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PassKey(…)")
    }
}

/// The holder that a genuine token names. Whether the pass still holds is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    pub lease: Lease,
    pub incarnation: u64,
}

impl PassKey {
    /// Makes a key from the kernel's randomness. Errors: `/dev/urandom` cannot be read.
    pub fn random() -> io::Result<Self> {
        let mut key = [0; blake3::KEY_LEN];
        fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(Self(key))
    }

    /// Returns the key of a data directory; makes it at the first start. Errors: it cannot be read or written, has another length
    /// than a key, or others may read it.
    pub fn of_dir(dir: &Path) -> io::Result<Self> {
        let path = dir.join(KEY_FILE);
        let wrong = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {problem}", path.display()));
        if !path.try_exists()? {
            let Self(key) = Self::random()?;
            replace(&path, &key)?;
        }
        if fs::metadata(&path)?.permissions().mode() & 0o077 != 0 {
            return Err(wrong("it can be read by other users; run `chmod 600` on it"));
        }
        let key = fs::read(&path)?;
        let key = key
            .try_into()
            .map_err(|_| wrong("it is no key; remove it to have a new one made (agents that run lose their models)"))?;
        Ok(Self(key))
    }

    /// Returns the token of an attempt in a life of its agent: always the same one, since nothing in it is random or new.
    pub fn token(&self, lease: Lease, incarnation: u64) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + MAC_BYTES);
        bytes.extend_from_slice(&lease.task.as_u128().to_be_bytes());
        bytes.extend_from_slice(&lease.attempt.to_be_bytes());
        bytes.extend_from_slice(&lease.agent.as_u128().to_be_bytes());
        bytes.extend_from_slice(&incarnation.to_be_bytes());
        let mac = blake3::keyed_hash(&self.0, &bytes);
        bytes.extend_from_slice(mac.as_bytes());
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Returns whose a token is; `None` for everything that this key did not sign.
    pub fn read(&self, token: &str) -> Option<Presented> {
        const ENCODED: usize = (BODY_BYTES + MAC_BYTES).div_ceil(3) * 4;
        let token = token.strip_prefix(PREFIX).filter(|token| token.len() <= ENCODED)?;
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (body, mac) = bytes.split_at_checked(BODY_BYTES)?;
        let mac: [u8; MAC_BYTES] = mac.try_into().ok()?;
        // Comparing hashes takes the same time wherever they differ.
        if blake3::keyed_hash(&self.0, body) != blake3::Hash::from_bytes(mac) {
            return None;
        }
        let (task, rest) = body.split_first_chunk::<16>()?;
        let (attempt, rest) = rest.split_first_chunk::<4>()?;
        let (agent, rest) = rest.split_first_chunk::<16>()?;
        let lease = Lease {
            task: TaskId::from_u128(u128::from_be_bytes(*task)),
            attempt: u32::from_be_bytes(*attempt),
            agent: AgentId::from_u128(u128::from_be_bytes(*agent)),
        };
        Some(Presented { lease, incarnation: u64::from_be_bytes(rest.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease { task: TaskId::new(), attempt: 3, agent: AgentId::new() }
    }

    #[test]
    fn a_token_says_whose_it_is_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let lease = lease();
        let token = PassKey::of_dir(dir.path()).unwrap().token(lease, 7);
        let again = PassKey::of_dir(dir.path()).unwrap();
        assert_eq!(again.read(&token), Some(Presented { lease, incarnation: 7 }));
        assert_eq!(again.token(lease, 7), token);
    }

    #[test]
    fn a_token_that_was_changed_or_made_elsewhere_is_nobodys() {
        let key = PassKey::random().unwrap();
        let token = key.token(lease(), 7);
        assert_eq!(PassKey::random().unwrap().read(&token), None);
        for at in PREFIX.len()..token.len() - 1 {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.read(std::str::from_utf8(&changed).unwrap()), None, "{at}");
        }
        for bad in ["", "hwm_", "hwm_AAAA", &token[4..], &format!("{token}A"), "hwm_ä"] {
            assert_eq!(key.read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let key = PassKey::of_dir(dir.path()).unwrap();
        assert_eq!(format!("{key:?}"), "PassKey(…)");
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(PassKey::of_dir(dir.path()).unwrap_err().to_string().contains("chmod 600"));
        fs::write(&path, b"short").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(PassKey::of_dir(dir.path()).unwrap_err().to_string().contains("no key"));
    }
}

//! Ids: a UUIDv7 behind a type per noun, printed with its noun (`task_0192…`), and the untyped [`Key`].
//!
//! A noun's id type is declared once, with [`id!`](crate::id!), in the crate that owns the noun.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of an entity or record everywhere: a noun, an underscore and 32 hexadecimal digits.
///
/// Ordered by noun, then by time of creation. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

impl Key {
    /// Takes a key that this process made itself; anything from outside goes through [`FromStr`].
    pub fn trusted(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the key as text, with its noun.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the noun before the underscore.
    pub fn noun(&self) -> &str {
        self.0.split_once('_').map_or(&*self.0, |(noun, _)| noun)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let (noun, digits) = text.split_once('_').ok_or_else(|| BadId::new("NOUN", text))?;
        let noun_ok = !noun.is_empty() && noun.len() <= 16 && noun.bytes().all(|b| b.is_ascii_lowercase());
        if noun_ok && parse_digits(digits).is_some() { Ok(Self(text.into())) } else { Err(BadId::new("NOUN", text)) }
    }
}

/// The error for text that is no id of the wanted noun. It shows at most 80 characters of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} is no id of the form {noun}_ followed by 32 hexadecimal digits")]
pub struct BadId {
    noun: &'static str,
    shown: String,
}

impl BadId {
    /// Makes the error for `text`, which should have been an id of `noun`.
    pub fn new(noun: &'static str, text: &str) -> Self {
        Self { noun, shown: text.chars().take(80).collect() }
    }
}

/// Returns the 128 bits behind 32 lower-case hexadecimal digits; anything else is `None`.
pub fn parse_digits(digits: &str) -> Option<u128> {
    let plain = digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

/// Makes a new UUIDv7 as a number: ordered by the millisecond it was made in, monotonic within this process.
pub fn new_v7() -> u128 {
    uuid::Uuid::now_v7().as_u128()
}

/// Declares an id type per noun: `id! { /// Doc. TaskId => "task" }`.
#[macro_export]
macro_rules! id {
    ($($(#[$doc:meta])* $name:ident => $noun:literal),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            pub const NOUN: &'static str = $noun;
            /// Makes a new id, greater than every id this process made before.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self { Self($crate::id::new_v7()) }
            /// Makes the id with these bits.
            pub const fn from_u128(bits: u128) -> Self { Self(bits) }
            /// Returns the 128 bits of the id.
            pub const fn as_u128(self) -> u128 { self.0 }
            /// Returns the id as an untyped key.
            pub fn key(self) -> $crate::id::Key { $crate::id::Key::trusted(self.to_string()) }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, concat!($noun, "_{:032x}"), self.0) }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { std::fmt::Display::fmt(self, f) }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::id::BadId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix(concat!($noun, "_"))
                    .and_then($crate::id::parse_digits)
                    .map(Self)
                    .ok_or_else(|| $crate::id::BadId::new($noun, text))
            }
        }
        impl TryFrom<&$crate::id::Key> for $name {
            type Error = $crate::id::BadId;
            fn try_from(key: &$crate::id::Key) -> Result<Self, Self::Error> { key.as_str().parse() }
        }
        impl serde::Serialize for $name {
            /// Writes text for people (JSON), 16 bytes for machines (the ledger).
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { s.serialize_bytes(&self.0.to_be_bytes()) }
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                use serde::de::Error;
                if d.is_human_readable() {
                    let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    $crate::id::bits_from_bytes(d).map(Self)
                }
            }
        }
    )+};
}

/// Reads the 16 bytes that the compact form of an id is. For [`id!`](crate::id!) only.
pub fn bits_from_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
    let bytes: serde_bytes::ByteArray<16> = Deserialize::deserialize(deserializer)?;
    Ok(u128::from_be_bytes(bytes.into_array()))
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::id! { /// A noun for these tests.
    ProbeId => "probe" }

    #[test]
    fn an_id_reads_back_from_what_it_prints_in_both_forms() {
        let id = ProbeId::new();
        assert_eq!(ProbeId::try_from(&id.key()).unwrap(), ProbeId::from_u128(id.as_u128()));
        assert_eq!(id.key().noun(), ProbeId::NOUN);
        assert_eq!(id.to_string().parse::<ProbeId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<ProbeId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        let bytes = rmp_serde::to_vec(&id).unwrap();
        assert_eq!(bytes.len(), 18);
        assert_eq!(rmp_serde::from_slice::<ProbeId>(&bytes).unwrap(), id);
    }

    #[test]
    fn text_of_another_noun_or_shape_is_refused() {
        let digits = "0192f0c1a2b37c4d8e9fa0b1c2d3e4f5";
        for bad in [
            "",
            "probe_",
            digits,
            &format!("task_{digits}"),
            &format!("probe_{}", digits.to_uppercase()),
            "probe_+192f0c1a2b37c4d8e9fa0b1c2d3e4f5",
        ] {
            assert!(bad.parse::<ProbeId>().is_err(), "{bad}");
        }
        assert!(format!("probe_{digits}").parse::<Key>().is_ok());
    }
}

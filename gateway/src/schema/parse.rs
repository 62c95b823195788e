//! Small parsers that name the input field at fault.

use std::str::FromStr;

use async_graphql::ID;
use hiveward_actors::client::{ControlPlane, SwarmRef};
use hiveward_kernel::id::SwarmId;
use hiveward_runtime::{
    error::Refused,
    id::{BadId, Key},
};

/// An id of one noun.
pub fn id<T: FromStr<Err = BadId>>(field: &str, id: &ID) -> Result<T, Refused> {
    id.parse().map_err(|error: BadId| Refused::invalid(field, error.to_string()))
}

pub fn optional<T: FromStr<Err = BadId>>(field: &str, given: Option<&ID>) -> Result<Option<T>, Refused> {
    given.map(|given| id(field, given)).transpose()
}

pub fn key(field: &str, id: &ID) -> Result<Key, Refused> {
    id.parse().map_err(|error: BadId| Refused::invalid(field, error.to_string()))
}

/// Of an id, or of the name of whatever people or this hive name.
const REFERENCE_BYTES_MAX: usize = 128;

/// Refuses what nothing is called, so that no answer and no log repeats a text of any length.
pub fn reference(field: &str, given: &ID) -> Result<(), Refused> {
    if given.len() <= REFERENCE_BYTES_MAX {
        return Ok(());
    }
    Err(Refused::invalid(field, format!("an id or a name has at most {REFERENCE_BYTES_MAX} bytes")))
}

/// A swarm by id or by name.
pub fn swarm(field: &str, given: &ID) -> Result<SwarmRef, Refused> {
    reference(field, given)?;
    match given.parse::<SwarmId>() {
        Ok(id) => Ok(SwarmRef::Id(id)),
        Err(error) if given.is_empty() || given.starts_with("swarm_") => Err(Refused::invalid(field, error.to_string())),
        Err(_) => Ok(SwarmRef::Name(given.to_string())),
    }
}

/// The id of a swarm that a filter or a command names by id or name.
pub fn swarm_id(control: &ControlPlane, field: &str, given: &ID) -> Result<SwarmId, Refused> {
    match swarm(field, given)? {
        SwarmRef::Id(id) => Ok(id),
        SwarmRef::Name(name) => {
            let found = control.swarm_named(&name)?.ok_or_else(|| Refused::not_found(format!("swarm named {name:?}")))?;
            Ok(found.spec.id)
        }
    }
}

/// A duration or count that is zero or more.
pub fn natural<T: TryFrom<i32>>(field: &str, given: i32) -> Result<T, Refused> {
    T::try_from(given).map_err(|_| Refused::invalid(field, format!("{given} is not zero or more")))
}

pub fn optional_natural<T: TryFrom<i32>>(field: &str, given: Option<i32>) -> Result<Option<T>, Refused> {
    given.map(|given| natural(field, given)).transpose()
}

/// A count of what a terminal has, such as columns.
pub fn sixteen_bits(field: &str, given: i32) -> Result<u16, Refused> {
    u16::try_from(given).map_err(|_| Refused::invalid(field, format!("{given} is not 0 to {}", u16::MAX)))
}

/// A small number, such as of a hundred.
pub fn optional_byte(field: &str, given: Option<i32>) -> Result<Option<u8>, Refused> {
    let read = |given| u8::try_from(given).map_err(|_| Refused::invalid(field, format!("{given} is not 0 to 255")));
    given.map(read).transpose()
}

/// A name that people give: 1 to 64 letters, digits, `.`, `_` and `-`, so that it is safe in paths and tables.
pub fn name(field: &str, given: String) -> Result<String, Refused> {
    let plain = given.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    let starts = given.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if plain && starts && given.len() <= 64 {
        Ok(given)
    } else {
        Err(Refused::invalid(field, "a name has 1 to 64 letters, digits, `.`, `_` and `-`, and starts with a letter or digit"))
    }
}

/// A path of fields: `join("tasks.3", "title")`.
pub fn join(prefix: &str, field: &str) -> String {
    if prefix.is_empty() { field.to_owned() } else { format!("{prefix}.{field}") }
}

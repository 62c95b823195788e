//! Relay pages: how many, after what, and the connection they become.

use async_graphql::{
    OutputType,
    connection::{Connection, Edge, EmptyFields},
};
use hiveward_actors::client::Page;
use hiveward_runtime::error::{Code, Refused};

use crate::limit::{PAGE_DEFAULT, PAGE_MAX};

pub type Pages<T> = Connection<String, T, EmptyFields, EmptyFields>;

/// The wanted number of entries: 1 to 500, 50 by default.
pub fn first(first: Option<i32>) -> Result<usize, Refused> {
    match first.map(usize::try_from) {
        None => Ok(PAGE_DEFAULT),
        Some(Ok(first)) if first > PAGE_MAX => {
            Err(Refused { field: Some("first".into()), ..Refused::new(Code::Limit, format!("`first` is at most {PAGE_MAX} (limit `first`); read page after page with `after`")) })
        }
        Some(Ok(first)) if first > 0 => Ok(first),
        Some(_) => Err(Refused::invalid("first", format!("`first` is 1 to {PAGE_MAX}"))),
    }
}

/// A connection of what the control plane returned.
pub fn connection<R, T: OutputType + From<R>>(page: Page<R>, after: Option<&str>) -> Pages<T> {
    let mut connection = Connection::new(after.is_some(), page.has_next);
    connection.edges = page.items.into_iter().map(|(key, record)| Edge::new(key, T::from(record))).collect();
    connection
}

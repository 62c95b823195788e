//! Relay pages: how many, after what, and the connection they become.

use std::borrow::Cow;

use async_graphql::{Object, OutputType, SimpleObject, TypeName};
use hiveward_kernel::page::Page;
use hiveward_runtime::error::{Code, Refused};

use crate::limit::{PAGE_DEFAULT, PAGE_MAX};

/// One page: Relay's connection. A short page may still have more after it: go on from `endCursor`.
pub struct Pages<T> {
    edges: Vec<Edge<T>>,
    info: PageInfo,
}

pub struct Edge<T> {
    cursor: String,
    node: T,
}

#[derive(SimpleObject, Clone)]
pub struct PageInfo {
    has_previous_page: bool,
    has_next_page: bool,
    start_cursor: Option<String>,
    /// Where the next page begins after.
    end_cursor: Option<String>,
}

impl<T: OutputType> TypeName for Pages<T> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Connection", T::type_name()).into()
    }
}

impl<T: OutputType> TypeName for Edge<T> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Edge", T::type_name()).into()
    }
}

#[Object(name_type)]
impl<T: OutputType> Pages<T> {
    async fn page_info(&self) -> PageInfo {
        self.info.clone()
    }
    async fn edges(&self) -> &[Edge<T>] {
        &self.edges
    }
    /// The edges' nodes alone.
    async fn nodes(&self) -> Vec<&T> {
        self.edges.iter().map(|edge| &edge.node).collect()
    }
}

#[Object(name_type)]
impl<T: OutputType> Edge<T> {
    async fn cursor(&self) -> &str {
        &self.cursor
    }
    async fn node(&self) -> &T {
        &self.node
    }
}

/// The wanted number of entries: 1 to 500, 50 by default.
pub fn first(first: Option<i32>) -> Result<usize, Refused> {
    number("first", first)
}

/// As [`first`], counted from the end.
pub fn last(last: i32) -> Result<usize, Refused> {
    number("last", Some(last))
}

fn number(field: &str, wanted: Option<i32>) -> Result<usize, Refused> {
    match wanted.map(usize::try_from) {
        None => Ok(PAGE_DEFAULT),
        Some(Ok(wanted)) if wanted > PAGE_MAX => Err(Refused {
            field: Some(field.into()),
            ..Refused::new(Code::Limit, format!("`{field}` is at most {PAGE_MAX} (limit `first`); read page after page"))
        }),
        Some(Ok(wanted)) if wanted > 0 => Ok(wanted),
        Some(_) => Err(Refused::invalid(field, format!("`{field}` is 1 to {PAGE_MAX}"))),
    }
}

/// A connection of the last entries before something; `older`: what to go on before, if there may be more.
pub fn backwards<R, T: OutputType + From<R>>(items: Vec<(String, R)>, older: Option<String>, before: bool) -> Pages<T> {
    let edges: Vec<_> = items.into_iter().map(|(cursor, record)| Edge { cursor, node: T::from(record) }).collect();
    let info = PageInfo {
        has_previous_page: older.is_some(),
        has_next_page: before,
        start_cursor: older.or_else(|| edges.first().map(|edge| edge.cursor.clone())),
        end_cursor: edges.last().map(|edge| edge.cursor.clone()),
    };
    Pages { edges, info }
}

/// A connection of what the control plane returned.
pub fn connection<R, T: OutputType + From<R>>(page: Page<R>, after: Option<&str>) -> Pages<T> {
    let edges: Vec<_> = page.items.into_iter().map(|(cursor, record)| Edge { cursor, node: T::from(record) }).collect();
    let end = page.last_seen.filter(|_| page.has_next).or_else(|| edges.last().map(|edge| edge.cursor.clone()));
    let info = PageInfo {
        has_previous_page: after.is_some(),
        has_next_page: page.has_next,
        start_cursor: edges.first().map(|edge| edge.cursor.clone()),
        end_cursor: end,
    };
    Pages { edges, info }
}

//! One page of a list.

/// One page of a list, and whether another follows.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items, each with the key that a next page begins after.
    pub items: Vec<(String, T)>,
    pub has_next: bool,
    /// The key of the last row that was looked at, wanted or not: where to go on if the page is short.
    pub last_seen: Option<String>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { items: Vec::new(), has_next: false, last_seen: None }
    }
}

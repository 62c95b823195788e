//! One page of a list.

#[derive(Clone, Debug)]
pub struct Page<T> {
    /// Each with the key that a next page begins after.
    pub items: Vec<(String, T)>,
    pub has_next: bool,
    /// The key of the last row looked at, wanted or not: where to go on if the page is short.
    pub last_seen: Option<String>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { items: Vec::new(), has_next: false, last_seen: None }
    }
}

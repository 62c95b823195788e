//! Connections to the hypervisor: each is used by one call at a time.
//!
//! Of several calls on one connection the first reads and writes for all, until it is answered, and libvirt's client may miss
//! that another has come: that one was sent with the next keepalive, up to five seconds late. On a busy host, where the figures
//! of all guests take ten seconds, a stop took six. So nobody shares, and what takes long holds up nothing.

use std::{
    ops::Deref,
    sync::{Mutex, PoisonError},
};

use virt::connect::Connect;

use crate::protocol::Problem;

/// Silence in seconds after which the other side is asked whether it is there, and how often it may owe the answer.
pub const KEEPALIVE: (i32, u32) = (5, 3);

fn connect(uri: &str) -> Result<Connect, Problem> {
    Connect::open(Some(uri)).map_err(|error| Problem::Unreachable(error.message().to_owned()))
}

pub fn open(uri: &str, (interval, count): (i32, u32)) -> Result<Connect, Problem> {
    let opened = connect(uri)?;
    // Not every driver has keepalive; those without need none.
    let _ = opened.set_keep_alive(interval, count);
    Ok(opened)
}

/// As many as there were calls at once, which is what the workers bound. They stay open as long as this process.
pub struct Connections {
    uri: String,
    /// Of a hypervisor in this process, which reads and writes nothing: all use it.
    shared: Option<Connect>,
    idle: Mutex<Vec<Connect>>,
    /// One is opened at a time: a host that is reached by SSH refuses several at once.
    opening: Mutex<()>,
}

impl Connections {
    pub fn new(uri: &str) -> Self {
        Self { uri: uri.to_owned(), shared: None, idle: Mutex::default(), opening: Mutex::default() }
    }

    /// To a hypervisor in this process.
    pub fn local(connection: Connect) -> Self {
        Self { uri: String::new(), shared: Some(connection), idle: Mutex::default(), opening: Mutex::default() }
    }

    /// One that nobody else uses until the answer is dropped; opened if there is none.
    pub fn lend(&self) -> Result<Lent<'_>, Problem> {
        let free = self.shared.clone().or_else(|| self.next());
        let connection = free.map_or_else(|| self.open(), Ok)?;
        Ok(Lent { of: self, connection })
    }

    fn open(&self) -> Result<Connect, Problem> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        // One may have come back meanwhile. Without keepalive: while a call is under way the thread of the events would send it, by
        // the same waking that may be missed, and stand still meanwhile. Whether the host lives is asked on the connection of the
        // events, and its end ends all.
        self.next().map_or_else(|| connect(&self.uri), Ok)
    }

    /// The one that was used last, so that as few as possible are in use. One that has ended is let go of.
    fn next(&self) -> Option<Connect> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|connection| connection.is_alive().unwrap_or(false))
    }
}

/// One call's connection.
pub struct Lent<'a> {
    of: &'a Connections,
    connection: Connect,
}

impl Deref for Lent<'_> {
    type Target = Connect;

    fn deref(&self) -> &Connect {
        &self.connection
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if self.of.shared.is_none() {
            self.of.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.connection.clone());
        }
    }
}

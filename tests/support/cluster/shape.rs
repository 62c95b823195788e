//! What a cluster of a test looks like before it starts.

use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Addresses 127.18.N.M: kills and freezes only; needs no rights.
    Loopback,
    /// A network namespace each: can be cut, throttled and unplugged; needs root.
    Namespaces,
}

#[derive(Clone, Debug)]
pub struct Shape {
    pub nodes: usize,
    pub mode: Mode,
    /// Of every node.
    pub env: Vec<(String, String)>,
    /// Nodes whose data lives on a small disk of so many megabytes.
    pub disks: Vec<(usize, u32)>,
    /// Nodes whose wall clock the test can move.
    pub clocks: bool,
    /// Programs of single nodes, for mixed versions; `hiveward` as built otherwise.
    pub binaries: Vec<(usize, PathBuf)>,
}

impl Shape {
    /// Namespaces where this process may have them.
    pub fn of(nodes: usize) -> Self {
        let mode = if super::may_partition() { Mode::Namespaces } else { Mode::Loopback };
        Self { nodes, mode, env: Vec::new(), disks: Vec::new(), clocks: false, binaries: Vec::new() }
    }

    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn disk(mut self, node: usize, megabytes: u32) -> Self {
        self.disks.push((node, megabytes));
        self
    }

    pub fn clocks(mut self) -> Self {
        self.clocks = true;
        self
    }

    pub fn binary(mut self, node: usize, binary: PathBuf) -> Self {
        self.binaries.push((node, binary));
        self
    }

    pub(super) fn needs_root(&self) -> bool {
        self.mode == Mode::Namespaces || !self.disks.is_empty()
    }
}

/// The library that moves a process's wall clock; its monotonic one goes on, as in real life.
pub fn faketime() -> Option<PathBuf> {
    let libraries = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|path| path.exists())
}

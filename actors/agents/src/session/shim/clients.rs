//! One connection of a node to the shim: whole frames in, a bounded buffer out.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use super::super::wire::{Event, KIND_EVENT, json_frame};

/// Bytes of answers that wait for a client that does not read; past it, no more of its requests are read.
const OUT_BYTES_MAX: usize = 64 << 10;

pub(super) struct Client {
    pub socket: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Whether the transcripts grew since it was told. It is told when its buffer is empty, so that costs one frame however slow
    /// it is.
    pub stale: bool,
    /// Whether its next frame is standard input that does not fit yet.
    pub blocked: bool,
    pub holds_stdin: bool,
    pub gone: bool,
}

impl Client {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, inbox: Vec::new(), outbox: Vec::new(), stale: true, blocked: false, holds_stdin: false, gone: false }
    }

    pub(super) fn wants_read(&self) -> bool {
        !self.blocked && self.outbox.len() < OUT_BYTES_MAX
    }

    pub(super) fn wants_write(&self) -> bool {
        !self.outbox.is_empty() || self.told_of_growth()
    }

    /// Tells whether the client is to be told of growth: one that only writes standard input does not read often enough for that.
    fn told_of_growth(&self) -> bool {
        self.stale && !self.holds_stdin
    }

    pub(super) fn tell(&mut self, event: &Event) {
        self.outbox.extend(json_frame(KIND_EVENT, event));
    }

    pub(super) fn receive(&mut self, buffer: &mut [u8]) {
        match self.socket.read(buffer) {
            Ok(0) => self.gone = true,
            Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.gone = true,
        }
    }

    pub(super) fn inbox(&self) -> &[u8] {
        &self.inbox
    }

    pub(super) fn taken(&mut self, bytes: usize) {
        self.inbox.drain(..bytes);
        if self.inbox.is_empty() {
            self.inbox = Vec::new();
        }
    }

    /// Sends what the socket takes now.
    pub(super) fn flush(&mut self, lengths: (u64, u64)) {
        if self.outbox.is_empty() && self.told_of_growth() {
            self.stale = false;
            self.tell(&Event::Grew { stdout: lengths.0, stderr: lengths.1 });
        }
        while !self.outbox.is_empty() {
            match self.socket.write(&self.outbox) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

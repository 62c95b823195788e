//! What a node and its libvirt driver say to each other: frames of MessagePack, each after its length in four bytes, little
//! end first. This file is part of both programs. Variants and fields have names: add, never rename; who understands less
//! says so by its version.
#![allow(dead_code)] // Each of the two programs uses its own half.

use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;
/// A longer frame ends the connection.
pub const FRAME_BYTES_MAX: usize = 32 << 20;

/// Asked by the node. `within_ms` is how long it waits; later nobody hears the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub within_ms: u64,
    pub call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// First, and once. `owner` marks this host's domains: 32 hexadecimal digits, as every id here.
    Open {
        version: u32,
        uri: String,
        owner: String,
    },
    Capacity,
    List,
    Act {
        vm: String,
        step: Step,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Step {
    Define(Box<Definition>),
    Start,
    Shutdown,
    Destroy,
    Suspend,
    Resume,
    Reboot,
    Undefine,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Definition {
    /// Of the host that it is for.
    pub owner: String,
    pub name: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub image: String,
    /// Names and sizes in bytes.
    pub disks: Vec<(String, u64)>,
    pub networks: Vec<String>,
    pub ssh_keys: Vec<String>,
    #[serde(with = "serde_bytes")]
    pub user_data: Vec<u8>,
}

/// Said by the driver.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    Answer {
        id: u64,
        result: Result<Answer, Problem>,
    },
    /// One domain of ours, or nobody knows which.
    Changed {
        vm: Option<String>,
    },
    /// The connection is over, and this process soon is.
    Closed {
        why: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Opened,
    Capacity { cpus: u32, memory_bytes: u64, version: String },
    Listing { domains: Vec<Seen>, foreign: u32 },
    Domain(Option<Seen>),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Problem {
    Refused(String),
    Failed(String),
    Unreachable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    Off,
    OffByGuest,
    OffByForce,
    Crashed,
    On,
    Paused,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Seen {
    pub vm: String,
    pub power: Power,
    pub cpu_time_ns: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub disk_read_bytes: Option<u64>,
    pub disk_written_bytes: Option<u64>,
    pub network_received_bytes: Option<u64>,
    pub network_sent_bytes: Option<u64>,
}

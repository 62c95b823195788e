//! The settings of links that an operator or a test may change.

use std::{net::SocketAddr, time::Duration};

use crate::supervise::Backoff;

#[derive(Clone, Debug)]
pub struct LinkConfig {
    pub listen: SocketAddr,
    /// The pause between pings on an idle link, so that silence means trouble.
    pub ping_every: Duration,
    /// The time after which a peer that says nothing is gone. At least three pings.
    pub read_idle: Duration,
    /// The time after which a peer that takes nothing is gone, though it still speaks.
    pub write_stall: Duration,
    /// The time from accept or connect to both hellos. It also bounds a connect.
    pub handshake_within: Duration,
    /// The number of bytes that a peer may send before our handler has taken them.
    pub window_bytes: u32,
    /// The number of bytes that may wait behind a peer's window; it may be exceeded by one frame.
    pub outbound_bytes_max: usize,
    /// The largest number of unproven connections, in all and from one address; one more is closed at once.
    pub unproven_max: usize,
    pub unproven_per_address_max: usize,
    pub backoff: Backoff,
}

impl LinkConfig {
    /// Returns the defaults for a node that listens on this address.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            ping_every: Duration::from_secs(2),
            read_idle: Duration::from_secs(8),
            write_stall: Duration::from_secs(8),
            handshake_within: Duration::from_secs(5),
            window_bytes: 1024 * 1024,
            outbound_bytes_max: 1024 * 1024,
            unproven_max: 256,
            unproven_per_address_max: 64,
            backoff: Backoff {
                first: Duration::from_millis(100),
                // Who is back is linked a second later: an election may need it. A try that is refused costs little.
                max: Duration::from_secs(1),
                factor: 2.0,
                jitter: 0.5,
                reset_after: Duration::from_secs(30),
            },
        }
    }
}

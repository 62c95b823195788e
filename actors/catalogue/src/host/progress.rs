//! Says in words and numbers what a driver's account of a run means.

use super::protocol::{Lag, Progress};

impl Lag {
    /// Says for people in which shape the VM runs until it is stopped and started.
    pub fn words(&self) -> String {
        let cpus = if self.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", self.cpus) };
        let mut words = format!("it runs with {cpus} and {} MiB", self.memory_bytes >> 20);
        if !self.devices.is_empty() {
            words.push_str(&format!(", without {}", self.devices.join(" and ")));
        }
        words.push_str(" until it is stopped and started");
        words
    }
}

impl Progress {
    /// Returns how many milliseconds it still takes, if the guest writes and the network carries on as now: what is left over
    /// what is sent and not written anew. `None` if that is not known, or never ends.
    pub fn forecast_ms(&self) -> Option<u64> {
        let gained = self.sent_bytes?.saturating_sub(self.dirty_bytes.unwrap_or(0));
        (gained > 0).then_some(())?;
        self.remaining_bytes?.checked_mul(1_000)?.checked_div(gained)
    }

    /// Tells whether the guest writes at least as fast as its memory is sent; `None` if that is not known.
    pub fn is_outrun(&self) -> Option<bool> {
        Some(self.dirty_bytes? >= self.sent_bytes.filter(|sent| *sent > 0)?)
    }
}

//! TCP ports that no two attempts of a node are told to use at once.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// Number of ports that one attempt is told, from `HIVEWARD_PORT` on.
pub const PORTS_EACH: u16 = 10;
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Ports of one attempt, which are given back when this is dropped.
#[derive(Debug)]
pub struct Ports {
    pub first: u16,
}

impl Ports {
    /// Takes the same ports as before, if an attempt had some before a restart; else the next that are free. `None`: all are
    /// taken.
    pub fn take(before: Option<u16>) -> Option<Self> {
        let mut taken = TAKEN.lock();
        let free = |first: &u16| !taken.contains(first);
        let first = before.filter(free).or_else(|| (FIRST..LAST).step_by(usize::from(PORTS_EACH)).find(free))?;
        taken.insert(first);
        Some(Self { first })
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        TAKEN.lock().remove(&self.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_attempts_are_told_the_same_ports_and_they_are_given_back() {
        let all: Vec<_> = (0..50).map(|_| Ports::take(None).unwrap()).collect();
        let firsts: BTreeSet<_> = all.iter().map(|ports| ports.first).collect();
        assert_eq!(firsts.len(), 50);
        let one = all[7].first;
        assert_ne!(Ports::take(Some(one)).unwrap().first, one, "somebody has them");
        drop(all);
        assert_eq!(Ports::take(Some(one)).unwrap().first, one, "as before a restart");
    }
}

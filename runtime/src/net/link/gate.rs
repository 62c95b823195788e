//! The gate that caps connections that have not proven who they are.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

#[derive(Default)]
struct Counts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Clone)]
pub(super) struct Gate {
    counts: Arc<Mutex<Counts>>,
    max: usize,
    per_address_max: usize,
}

/// One place inside the gate. Dropping it gives the place back.
pub(super) struct Place {
    gate: Gate,
    address: IpAddr,
}

impl Gate {
    pub(super) fn new(max: usize, per_address_max: usize) -> Self {
        Self { counts: Arc::default(), max, per_address_max }
    }

    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock();
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.all >= self.max || here >= self.per_address_max {
            return None;
        }
        counts.all += 1;
        counts.by_address.insert(address, here + 1);
        Some(Place { gate: self.clone(), address })
    }

    pub(super) fn inside(&self) -> usize {
        self.counts.lock().all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.gate.counts.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

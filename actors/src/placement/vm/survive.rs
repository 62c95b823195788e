//! Whether the loss of the fullest host could be made good: admission for VMs that are to come back elsewhere.

use super::{Engine, Hosts, Need, Wish};
use crate::id::{HostId, VmId};

/// A VM that is to come back, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    pub vm: VmId,
    pub on: HostId,
    pub wish: Wish<'a>,
}

/// Whether all of `guests` that are on the host with most of their memory, and of that with most of their CPU, would find
/// a place on the others, one after another, the largest first. If not, which one would not, and why.
pub fn survives_largest(hosts: &Hosts, guests: &[Guest<'_>]) -> Result<(), String> {
    let mut held = vec![(0_i64, 0_i64); hosts.len()];
    for guest in guests {
        if let Some(held) = hosts.position(guest.on).and_then(|at| held.get_mut(at)) {
            held.0 += i64::from(guest.wish.need.memory_mib);
            held.1 += i64::from(guest.wish.need.cpu_milli);
        }
    }
    let all = || held.iter().enumerate();
    let memory = all().max_by_key(|(_, held)| held.0).map(|(at, _)| at);
    let cpu = all().max_by_key(|(_, held)| held.1).map(|(at, _)| at);
    for at in memory.into_iter().chain(cpu.filter(|at| Some(*at) != memory)) {
        survives(hosts, guests, at)?;
    }
    Ok(())
}

fn survives(hosts: &Hosts, guests: &[Guest<'_>], lost: usize) -> Result<(), String> {
    let Some(lost_id) = hosts.id(lost) else { return Ok(()) };
    let mut moving: Vec<_> = guests.iter().filter(|guest| guest.on == lost_id).collect();
    if moving.is_empty() {
        return Ok(());
    }
    moving.sort_unstable_by_key(|guest| {
        let Need { cpu_milli, memory_mib } = guest.wish.need;
        (std::cmp::Reverse(memory_mib), std::cmp::Reverse(cpu_milli), guest.vm)
    });
    let mut after = hosts.clone();
    after.lose(lost);
    let mut engine = Engine::default();
    for guest in &moving {
        // Where it was named to be is lost: it may go anywhere else.
        let wish = Wish { pin: None, ..guest.wish };
        match engine.decide(&after, &wish) {
            Ok((at, _)) => after.take(at, wish.need, wish.anti_affinity.iter().chain(wish.affinity).map(String::as_str)),
            Err(why) => {
                return Err(format!(
                    "if {lost_id} were lost, {} of its {} VMs could not come back: {why}",
                    guest.vm,
                    moving.len()
                ));
            }
        }
    }
    Ok(())
}

impl Hosts {
    /// As if it were gone, with all that is on it.
    fn lose(&mut self, at: usize) {
        if let Some(closed) = self.closed.get_mut(at) {
            *closed = super::Reject::Unreachable;
        }
        let on = u32::try_from(at).unwrap_or(u32::MAX);
        for members in self.groups.values_mut() {
            members.remove(&on);
        }
        self.groups.retain(|_, members| !members.is_empty());
    }
}

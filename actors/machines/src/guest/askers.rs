//! Knows which processes of this node may ask which guest: the sessions in VMs that this life of the node started or found again.
//!
//! A process is known by its number, as the kernel names it at the desk's socket, together with when it began: no program can
//! make up either. So an agent's process may say what it likes, and is asked for nothing that it could have read or guessed.

use std::{collections::HashMap, fs, sync::Arc};

use hiveward_kernel::id::VmId;
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

#[derive(Clone, Copy)]
struct Asker {
    /// Time at which it began, in clock ticks since the machine was started; never the same for two processes with one number.
    began: u64,
    vm: VmId,
}

#[derive(Default)]
struct Inner {
    /// Processes by their numbers, at most those that live: those that have ended are dropped at each entry.
    all: Mutex<HashMap<i32, Asker>>,
    entered: Notify,
}

/// The list of those processes. Cheap to clone.
#[derive(Clone, Default)]
pub struct Askers(Arc<Inner>);

/// What the list says of a process that asks for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// The process is the session of this VM.
    Yes,
    /// The process is another VM's session, or it is none and this VM has one.
    No,
    /// Neither has been entered, or not yet.
    Unknown,
}

impl Askers {
    /// Lets this process ask that VM from now on, for as long as it lives.
    pub fn enter(&self, pid: i32, vm: VmId) {
        self.enter_as(pid, vm, began_at);
    }

    fn enter_as(&self, pid: i32, vm: VmId, began_at: impl Fn(i32) -> Option<u64>) {
        let mut all = self.0.all.lock();
        all.retain(|pid, asker| began_at(*pid) == Some(asker.began));
        // One that has ended meanwhile asks nothing any more.
        if let Some(began) = began_at(pid) {
            all.insert(pid, Asker { began, vm });
        }
        drop(all);
        self.0.entered.notify_waiters();
    }

    /// Tells whether this process may ask for that VM.
    pub fn may(&self, pid: i32, vm: VmId) -> May {
        self.may_as(pid, vm, began_at)
    }

    fn may_as(&self, pid: i32, vm: VmId, began_at: impl Fn(i32) -> Option<u64>) -> May {
        let all = self.0.all.lock();
        let lives = |pid: i32, asker: &Asker| began_at(pid) == Some(asker.began);
        match all.get(&pid).filter(|asker| lives(pid, asker)) {
            Some(asker) if asker.vm == vm => May::Yes,
            Some(_) => May::No,
            None if all.iter().any(|(pid, asker)| asker.vm == vm && lives(*pid, asker)) => May::No,
            None => May::Unknown,
        }
    }

    /// Waits until another process is entered.
    pub fn entered(&self) -> Notified<'_> {
        self.0.entered.notified()
    }
}

fn began_at(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, so count from the last one. The state is the third field of the line.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_ask_its_own_vm_and_no_other_and_a_later_one_of_its_number_none() {
        let (askers, mine, another) = (Askers::default(), VmId::new(), VmId::new());
        let first = |_: i32| Some(100);
        askers.enter_as(7, mine, first);
        askers.enter_as(8, another, first);
        assert_eq!(askers.may_as(7, mine, first), May::Yes);
        assert_eq!(askers.may_as(7, another, first), May::No);
        assert_eq!(askers.may_as(9, mine, first), May::No, "it has a session, and that is another process");
        assert_eq!(askers.may_as(9, VmId::new(), first), May::Unknown);
        // The number was given out again.
        let later = |pid: i32| Some(if pid == 7 { 200 } else { 100 });
        assert_eq!(askers.may_as(7, mine, later), May::Unknown);
        askers.enter_as(10, mine, later);
        assert_eq!(askers.0.all.lock().len(), 2, "who has ended is forgotten");
    }

    #[test]
    fn a_process_that_lives_has_a_beginning_and_one_that_does_not_has_none() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(began_at(me).is_some_and(|at| at > 0));
        assert_eq!(began_at(i32::MAX), None);
    }
}

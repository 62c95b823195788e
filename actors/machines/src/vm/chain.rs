//! Chains of backups: what a new one may be based on, and which are still needed. Pure.
//!
//! A backup is full, or has what was written since another of the same place, its basis. What was written is marked by the
//! hypervisor from a checkpoint on, which is made with each backup and kept for the newest of each place. Nothing is guessed:
//! where it is not certain what was written since, the backup is a full one and says why.

use hiveward_catalogue::{
    host::protocol::{CHECKPOINT_MARK, CHECKPOINTS_MAX},
    vm::spec::VmSpec,
};
use hiveward_kernel::id::HostId;

use super::{
    backup::{Backup, name},
    event::{OperationKind, Outcome},
    state::VmState,
};

/// Number of backups in one chain at most, with the full one that it begins with: a restore reads all of them.
pub const CHAIN_MAX: u32 = 16;

/// Returns the place of a backup: its path without its own name.
pub fn place(path: &str) -> &str {
    path.trim_end_matches('/').rsplit_once('/').map_or("", |(place, _)| if place.is_empty() { "/" } else { place })
}

fn is_in(backup: &Backup, to: &str) -> bool {
    let to = to.trim_end_matches('/');
    place(&backup.path) == if to.is_empty() { "/" } else { to }
}

/// Returns the name of the checkpoint that is made with the backup of this number.
pub fn checkpoint(spec: &VmSpec, number: u64) -> String {
    format!("{CHECKPOINT_MARK}{}", name(spec, number))
}

/// Returns the newest backup in `to` that a new one may be based on. Errors: the reason in words why there is none.
pub fn basis<'a>(state: &'a VmState, to: &str, host: HostId) -> Result<&'a Backup, String> {
    let Some(last) = state.backups.iter().rev().find(|backup| is_in(backup, to)) else {
        return Err("it knows of no earlier backup of it there".into());
    };
    let Some(marked) = state.backups.iter().rev().find(|backup| is_in(backup, to) && backup.marked_on.is_some()) else {
        let why = last.whole_because.as_deref().unwrap_or("it was made before there were checkpoints");
        return Err(format!("its last backup there has no checkpoint: {why}"));
    };
    if marked.marked_on != Some(host) {
        return Err("it has come to another host since its last backup there".into());
    }
    let reverted = state.operations.iter().any(|operation| {
        let done = matches!(operation.ended, Some((_, Outcome::Done | Outcome::Failed { .. })));
        operation.number > marked.number && operation.kind == OperationKind::Revert && done
    });
    if reverted {
        return Err("it was reverted to a snapshot since its last backup there".into());
    }
    if marked.depth + 1 >= CHAIN_MAX {
        return Err(format!("its chain has {CHAIN_MAX} backups, and no more belong to one"));
    }
    Ok(marked)
}

/// Returns the numbers of the backups whose checkpoints a later one may need: the one that it is based on now, then the newest of
/// each place, of as many of the newest places as there may be.
pub fn marked(state: &VmState, host: HostId, basis: Option<&Backup>) -> Vec<u64> {
    let mut places: Vec<_> = basis.map(|basis| place(&basis.path)).into_iter().collect();
    let mut numbers: Vec<_> = basis.map(|basis| basis.number).into_iter().collect();
    for backup in state.backups.iter().rev().filter(|backup| backup.marked_on == Some(host)) {
        if !places.contains(&place(&backup.path)) && numbers.len() < CHECKPOINTS_MAX - 1 {
            places.push(place(&backup.path));
            numbers.push(backup.number);
        }
    }
    numbers
}

/// Returns how many backups the chain of the newest one in `to` has up to it; 0 if there is none.
pub fn length(state: &VmState, to: &str) -> u32 {
    state.backups.iter().rev().find(|backup| is_in(backup, to)).map_or(0, |backup| backup.depth + 1)
}

/// Returns the newest backup that nothing is based on, of those that the VM made by itself and that are older than the `keep`
/// newest.
pub fn unneeded(state: &VmState, keep: usize) -> Option<&Backup> {
    let own = state.backups.iter().rev().filter(|backup| backup.scheduled).skip(keep);
    own.into_iter().find(|backup| state.backups.iter().all(|other| other.basis != Some(backup.number)))
}

#[cfg(test)]
pub mod tests {
    use hiveward_catalogue::vm::testing::spec;
    use hiveward_runtime::clock::WallMs;

    use super::*;
    use crate::vm::{
        event::{Asked, VmEvent},
        state::HOUSE,
    };

    /// Returns a backup of one byte in `to` for tests, based on `basis` and marked on `host`.
    pub fn backup(number: u64, to: &str, basis: Option<&Backup>, host: HostId) -> Backup {
        Backup {
            number,
            path: format!("{to}/{number}"),
            taken_at: WallMs(1),
            bytes: 1,
            scheduled: false,
            basis: basis.map(|basis| basis.number),
            depth: basis.map_or(0, |basis| basis.depth + 1),
            whole_because: None,
            marked_on: Some(host),
        }
    }

    /// Checks that every known backup has all that it is based on, in its own place; panics if not.
    pub fn whole(state: &VmState, seed: &str) {
        for backup in &state.backups {
            let mut of = backup;
            let mut depth = 0;
            while let Some(basis) = of.basis {
                let Some(below) = state.backups.iter().find(|below| below.number == basis) else {
                    panic!("{seed}: {} is based on {basis}, which is gone: {:#?}", of.number, state.backups);
                };
                assert_eq!(place(&below.path), place(&of.path), "{seed}");
                (of, depth) = (below, depth + 1);
            }
            assert!(depth < CHAIN_MAX && depth == backup.depth, "{seed}: {depth} of {backup:?}");
        }
    }

    fn ask(state: &mut VmState, kind: OperationKind, principal: &str) -> u64 {
        let number = state.last_number() + 1;
        state.apply(&VmEvent::Asked(Box::new(Asked::new(number, kind, principal))), WallMs(1));
        number
    }

    fn end(state: &mut VmState, number: u64) {
        state.apply(&VmEvent::Ended { number, outcome: Outcome::Done }, WallMs(1));
    }

    /// Models what a disk holds and what the hypervisor marks of it: of each checkpoint, whether what was written since is known.
    #[test]
    fn whatever_happens_a_backup_comes_back_as_the_disk_was_and_nothing_that_is_needed_is_pruned() {
        for seed in 0..300 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let hosts = [HostId::new(), HostId::new()];
            let (mut state, mut at, keep) = (VmState::new(&spec(), WallMs(0)), 0, dice.usize(1..6));
            end(&mut state, 1);
            let mut disk = std::collections::BTreeMap::<u8, u64>::new();
            // By the number of each backup: the disk as it was, what the backup has, and its checkpoint's dirty blocks.
            let (mut was, mut has, mut dirty) = (
                std::collections::BTreeMap::new(),
                std::collections::BTreeMap::<u64, std::collections::BTreeMap<u8, u64>>::new(),
                std::collections::BTreeMap::<u64, std::collections::BTreeSet<u8>>::new(),
            );
            for _ in 0..200 {
                match dice.u32(0..12) {
                    0..6 => {
                        let (block, value) = (dice.u8(0..32), dice.u64(..));
                        disk.insert(block, value);
                        for blocks in dirty.values_mut() {
                            blocks.insert(block);
                        }
                    }
                    6..9 => {
                        let (person, to) = (dice.bool(), ["/a", "/b", "s3://c/d", "/e", "/f"][dice.usize(0..5)]);
                        let number = ask(&mut state, OperationKind::Backup, if person { "p" } else { HOUSE });
                        let (host, on) = (hosts[at], dice.u32(0..5) > 0);
                        let basis = basis(&state, to, host).ok().filter(|basis| on && dirty.contains_key(&basis.number)).cloned();
                        if on {
                            let keeps = marked(&state, host, basis.as_ref());
                            dirty.retain(|known, _| keeps.contains(known));
                        }
                        let written = basis.as_ref().and_then(|basis| dirty.get(&basis.number)).cloned();
                        let mut delta = disk.clone();
                        delta.retain(|block, _| written.as_ref().is_none_or(|written| written.contains(block)));
                        has.insert(number, delta);
                        was.insert(number, disk.clone());
                        let mut new = backup(number, to, basis.as_ref(), host);
                        if on {
                            dirty.insert(number, std::collections::BTreeSet::new());
                        } else {
                            new.marked_on = None;
                        }
                        assert!(dirty.len() <= CHECKPOINTS_MAX, "seed {seed}: {dirty:?}");
                        state.apply(&VmEvent::BackedUp { backup: Box::new(new) }, WallMs(1));
                        end(&mut state, number);
                    }
                    9 => {
                        // Its QEMU is killed, or it moves.
                        dirty.clear();
                        at = dice.usize(0..2);
                    }
                    10 => {
                        let number = ask(&mut state, OperationKind::Revert, "p");
                        disk.clear();
                        dirty.clear();
                        end(&mut state, number);
                    }
                    _ => {
                        while let Some(number) = unneeded(&state, keep).map(|old| old.number) {
                            assert!(
                                state.backups.iter().any(|one| one.number == number && one.scheduled),
                                "seed {seed}: a person's"
                            );
                            state.apply(&VmEvent::BackupForgotten { number }, WallMs(1));
                        }
                    }
                }
                whole(&state, &format!("seed {seed}"));
            }
            for backup in &state.backups {
                let mut chain = vec![backup];
                while let Some(basis) = chain.last().unwrap().basis {
                    chain.push(state.backups.iter().find(|below| below.number == basis).unwrap());
                }
                let mut back = std::collections::BTreeMap::new();
                for layer in chain.iter().rev() {
                    back.extend(has[&layer.number].clone());
                }
                assert_eq!(back, was[&backup.number], "seed {seed}: {backup:?}");
            }
        }
    }

    #[test]
    fn a_full_one_says_why_it_could_not_be_less() {
        let (host, other) = (HostId::new(), HostId::new());
        let mut state = VmState::new(&spec(), WallMs(0));
        end(&mut state, 1);
        let why = |state: &VmState, host| basis(state, "/b/", host).map(|basis| basis.number).unwrap_err();
        assert!(why(&state, host).contains("no earlier backup"));
        for depth in 0..CHAIN_MAX {
            let number = ask(&mut state, OperationKind::Backup, "p");
            let below = basis(&state, "/b", host).ok().cloned();
            assert_eq!(below.is_some(), depth > 0);
            state.apply(&VmEvent::BackedUp { backup: Box::new(backup(number, "/b", below.as_ref(), host)) }, WallMs(1));
            end(&mut state, number);
        }
        assert!(why(&state, host).contains("chain has 16"));
        assert!(why(&state, other).contains("another host"));
        assert_eq!((length(&state, "/b"), length(&state, "/c")), (CHAIN_MAX, 0));
        let number = ask(&mut state, OperationKind::Backup, "p");
        let off = Backup { whole_because: Some("it is off".into()), marked_on: None, ..backup(number, "/c", None, host) };
        state.apply(&VmEvent::BackedUp { backup: Box::new(off) }, WallMs(1));
        end(&mut state, number);
        let said = basis(&state, "/c", host).map(|basis| basis.number).unwrap_err();
        assert!(said.contains("no checkpoint: it is off"), "{said}");
        let number = ask(&mut state, OperationKind::Revert, "p");
        end(&mut state, number);
        assert!(why(&state, host).contains("reverted"));
    }

    #[test]
    fn a_place_is_where_a_backup_is_without_its_name() {
        for (path, is) in
            [("/b/one", "/b"), ("/one", "/"), ("s3://bucket/one", "s3://bucket"), ("s3://bucket/a/one", "s3://bucket/a")]
        {
            assert_eq!(place(path), is);
        }
    }
}

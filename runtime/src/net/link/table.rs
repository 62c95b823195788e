//! The table of links: which are up, which life of a peer is the present one, and why the others are down.

use std::collections::{HashMap, hash_map::Entry};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use super::{Down, Lane, Link, LinkRefused, hello::Hello};
use crate::{clock::WallMs, net::LifeId, op::NodeId};

/// The largest number of peers known at a time; one more is refused with `Full`.
pub const PEERS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LinkState {
    Up,
    Down,
}

/// One link as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct LinkSnapshot {
    pub peer: NodeId,
    pub lane: Lane,
    pub state: LinkState,
    /// The time since when it has been so.
    pub since: WallMs,
    pub generation: Option<u64>,
    pub version: Option<u16>,
    /// The last ping's round trip; absent if none was answered.
    pub round_trip_us: Option<u64>,
    pub clock_offset_ms: Option<i64>,
    pub queued_bytes: usize,
    pub untaken_bytes: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// The reason why it is down, in words.
    pub why_down: Option<String>,
    /// The number of dials in a row that did not come up.
    pub failed_dials: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct LinksSnapshot {
    pub links: Vec<LinkSnapshot>,
    /// The number of connections that have not proven who they are.
    pub unproven: usize,
    /// The number of connections that never became a link, since start.
    pub rejected: u64,
}

struct Trouble {
    why: Down,
    since: WallMs,
    failed_dials: u32,
}

#[derive(Default)]
struct Known {
    lives: HashMap<NodeId, (u64, LifeId)>,
    troubles: HashMap<(NodeId, Lane), Trouble>,
}

type Up = HashMap<(NodeId, Lane), (Link, WallMs), foldhash::fast::RandomState>;

#[derive(Default)]
pub(super) struct Table {
    up: RwLock<Up>,
    known: Mutex<Known>,
}

impl Table {
    pub(super) fn link(&self, peer: NodeId, lane: Lane) -> Option<Link> {
        self.up.read().get(&(peer, lane)).map(|(link, _)| link.clone())
    }

    pub(super) fn links(&self) -> Vec<Link> {
        self.up.read().values().map(|(link, _)| link.clone()).collect()
    }

    /// Decides whether a connection with this hello may become the link; if so, what it replaces is closed.
    pub(super) fn admit(&self, hello: &Hello, lane: Lane, make: impl FnOnce() -> Link) -> Result<Link, LinkRefused> {
        // Both locks, always in this order: two connections of one node are decided one after the other.
        let mut known = self.known.lock();
        let mut up = self.up.write();
        let peers = known.lives.len();
        match known.lives.entry(hello.node) {
            Entry::Vacant(_) if peers >= PEERS_MAX => return Err(LinkRefused::Full { max: PEERS_MAX }),
            Entry::Vacant(entry) => {
                entry.insert((hello.generation, hello.life));
            }
            Entry::Occupied(mut entry) => {
                let (generation, life) = *entry.get();
                let of_old_life = |(link, _): &&(Link, WallMs)| link.peer() == hello.node && link.life() == life;
                if hello.generation < generation {
                    return Err(LinkRefused::StaleGeneration { newest: generation });
                }
                if hello.life != life {
                    // Two processes with one generation: a copied data directory. The one that was first stays.
                    if hello.generation == generation && up.values().any(|entry| of_old_life(&entry)) {
                        return Err(LinkRefused::NodeIdTaken);
                    }
                    for (link, _) in up.values().filter(of_old_life) {
                        link.close(Down::Replaced);
                    }
                    up.retain(|_, (link, _)| link.is_up());
                    entry.insert((hello.generation, hello.life));
                }
            }
        }
        let link = make();
        known.troubles.remove(&(hello.node, lane));
        if let Some((old, _)) = up.insert((hello.node, lane), (link.clone(), WallMs::now())) {
            old.close(Down::Replaced);
        }
        Ok(link)
    }

    /// Takes the link out, unless another took its place.
    pub(super) fn ended(&self, link: &Link, why: &Down) {
        let mut known = self.known.lock();
        let mut up = self.up.write();
        let key = (link.peer(), link.lane());
        if up.get(&key).is_some_and(|(present, _)| present.id() == link.id()) {
            up.remove(&key);
        }
        if !up.contains_key(&key) && known.lives.contains_key(&link.peer()) {
            known.troubles.insert(key, Trouble { why: why.clone(), since: WallMs::now(), failed_dials: 0 });
        }
    }

    pub(super) fn dial_failed(&self, peer: NodeId, lane: Lane, why: &Down) {
        let mut known = self.known.lock();
        let full = known.troubles.len() >= PEERS_MAX * Lane::ALL.len();
        match known.troubles.entry((peer, lane)) {
            Entry::Occupied(mut entry) => {
                let trouble = entry.get_mut();
                trouble.why = why.clone();
                trouble.failed_dials = trouble.failed_dials.saturating_add(1);
            }
            Entry::Vacant(entry) if !full => {
                entry.insert(Trouble { why: why.clone(), since: WallMs::now(), failed_dials: 1 });
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Closes every link of a peer that `unwanted` names, and forgets its life and troubles.
    pub(super) fn forget(&self, why: &Down, unwanted: impl Fn(NodeId) -> bool) {
        let mut known = self.known.lock();
        known.lives.retain(|peer, _| !unwanted(*peer));
        known.troubles.retain(|(peer, _), _| !unwanted(*peer));
        let up = self.up.read();
        for (link, _) in up.values().filter(|(link, _)| unwanted(link.peer())) {
            link.close(why.clone());
        }
    }

    pub(super) fn snapshot(&self) -> Vec<LinkSnapshot> {
        use std::sync::atomic::Ordering::Relaxed;
        let known = self.known.lock();
        let up = self.up.read();
        let mut links: Vec<_> = up
            .values()
            .map(|(link, since)| LinkSnapshot {
                peer: link.peer(),
                lane: link.lane(),
                state: LinkState::Up,
                since: *since,
                generation: Some(link.generation()),
                version: Some(link.version()),
                round_trip_us: link.round_trip_us(),
                clock_offset_ms: link.clock_offset_ms(),
                queued_bytes: link.queued_bytes(),
                untaken_bytes: link.untaken_bytes(),
                bytes_in: link.0.bytes_in.load(Relaxed),
                bytes_out: link.0.bytes_out.load(Relaxed),
                why_down: None,
                failed_dials: 0,
            })
            .collect();
        let down = known.troubles.iter().filter(|(key, _)| !up.contains_key(key));
        links.extend(down.map(|((peer, lane), trouble)| LinkSnapshot {
            peer: *peer,
            lane: *lane,
            state: LinkState::Down,
            since: trouble.since,
            generation: known.lives.get(peer).map(|(generation, _)| *generation),
            version: None,
            round_trip_us: None,
            clock_offset_ms: None,
            queued_bytes: 0,
            untaken_bytes: 0,
            bytes_in: 0,
            bytes_out: 0,
            why_down: Some(trouble.why.to_string()),
            failed_dials: trouble.failed_dials,
        }));
        links.sort_by_key(|link| (link.peer, link.lane));
        links
    }
}

//! The steps of a migration: what [`migrate`](super::migrate) wants done, asked of the roster and of both hosts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::StreamExt;
use hiveward_catalogue::{
    host::{event::FleetChange, fleet::HostEntry, lost::is_off, spec::HostUri},
    vm::spec::VmSpec,
};
use hiveward_kernel::{ask::Ask, entity::Entity, id::HostId};
use hiveward_runtime::clock::Deadline;

use super::{
    ask::{ask_host, error},
    message::Stepped,
    migrate::{Compared, Move, There},
    reconcile::{Sought, Step},
};
use crate::host::{
    ask_roster,
    driver::{Action, Domain, DriverError, Migration, domain_name},
    message::STEP_WITHIN,
    message::{Done, HostMsg, Peeked, asks as host},
    services::MachineServices,
};

const PEEK_WITHIN: Duration = Duration::from_secs(10);
const PREPARE_WITHIN: Duration = Duration::from_secs(240);
const ROSTER_WITHIN: Duration = Duration::from_secs(10);
/// Hosts that are asked at the same time whether they have a VM that is not where it was.
const SEEKS_AT_ONCE: usize = 64;
/// All of them together, before it is said which of them did not answer.
const SEEK_WITHIN: Duration = Duration::from_secs(10);
/// Until others of its host have gone.
const QUEUED_WITHIN: Duration = Duration::from_secs(3_600);
/// Beyond twice its limit, by when the driver has ended it.
const MARGIN: Duration = Duration::from_secs(60);
/// Between looks whether this node knows what the roster has kept.
const KNOWN_EVERY: Duration = Duration::from_millis(5);

pub(super) struct Trip<'a> {
    pub services: &'a MachineServices,
    pub spec: &'a Arc<VmSpec>,
    pub host: HostId,
    pub asked: Option<&'a Move>,
    /// Where it was found.
    pub sought: Option<Sought>,
}

type StepResult = Result<Stepped, DriverError>;

fn failed<T>(message: impl Into<String>) -> Result<T, DriverError> {
    Err(DriverError::Failed { message: message.into() })
}

/// Why a VM that no host has of those that answered is left alone.
fn withheld(name: &str, silent: &BTreeSet<Arc<str>>) -> String {
    let (one, others) = (silent.first().map_or("", |name| name), silent.len().saturating_sub(1));
    let who = match others {
        0 => one.to_owned(),
        1 => format!("{one} and another host"),
        n => format!("{one} and {n} other hosts"),
    };
    format!(
        "{name} is not on its host any more, and {who} cannot be asked whether somebody moved it there; nothing is done with \
         it before that is known. Of a host that is surely off, say so: `hiveward host declare-lost {one} --i-know-it-is-off`"
    )
}

impl Trip<'_> {
    /// `None` if it is a step of the hypervisor's own.
    pub async fn step(&self, step: Step) -> Option<StepResult> {
        Some(match step {
            Step::Reserve => self.reserve().await,
            Step::Prepare => self.there(PREPARE_WITHIN, host::Prepare { vm: self.spec.id }).await,
            Step::Migrate => self.migrate().await,
            Step::Compare => self.compare().await,
            Step::Abort => {
                let vm = self.spec.id;
                let asked = match self.services.doors.of::<HostMsg>(self.host) {
                    Some(door) => door.ask(Deadline::after(STEP_WITHIN), |reply| HostMsg::Abort { vm, reply }).await,
                    None => return Some(failed("its host has no actor now")),
                };
                // One that has just ended cannot be aborted any more, and is looked at.
                drop(asked);
                Ok(Stepped::Told)
            }
            Step::DropThere | Step::Clear => self.there(STEP_WITHIN, host::Clear { vm: self.spec.id }).await,
            Step::DropHere => {
                let dropped = async {
                    ask_host(self.services, self.host, self.spec, Action::Destroy).await?;
                    ask_host(self.services, self.host, self.spec, Action::Dismiss).await
                };
                dropped.await.map(Stepped::Seen)
            }
            Step::CleanHere if self.shares() => Ok(Stepped::Told),
            Step::CleanHere => ask_host(self.services, self.host, self.spec, Action::Discard).await.map(|_| Stepped::Told),
            Step::Seek => self.seek().await,
            Step::Follow => self.follow().await,
            Step::Settle => self.tell(true).await,
            Step::Release => self.tell(false).await,
            _ => return None,
        })
    }

    /// The host that room is reserved on.
    fn to(&self) -> Option<HostId> {
        self.services.directory.read(|known| known.fleet.vms.get(&self.spec.id)?.moving)
    }

    fn shares(&self) -> bool {
        self.services.directory.read(|known| {
            let spec = |host: HostId| known.fleet.hosts.get(&host).map(|entry| &entry.spec);
            let to = known.fleet.vms.get(&self.spec.id).and_then(|entry| entry.moving).and_then(spec);
            spec(self.host).zip(to).is_some_and(|(from, to)| from.shares_with(to))
        })
    }

    async fn reserve(&self) -> StepResult {
        let (vm, from) = (self.spec.id, self.host);
        let to = self.asked.and_then(|asked| asked.to);
        self.ask_roster(FleetChange::BeginMove { vm, from, to }, |moving| moving.is_some()).await
    }

    async fn tell(&self, moved: bool) -> StepResult {
        let (vm, from) = (self.spec.id, self.host);
        self.ask_roster(FleetChange::EndMove { vm, from, moved }, |moving| moving.is_none()).await
    }

    /// Until this node knows of it: what is done next depends on it.
    async fn ask_roster(&self, change: FleetChange, known: impl Fn(Option<HostId>) -> bool) -> StepResult {
        let deadline = Deadline::after(ROSTER_WITHIN);
        ask_roster(self.services, change, deadline).await.map_err(error)?;
        while !known(self.to()) {
            if deadline.passed() {
                return failed("this node does not know yet what the roster has kept");
            }
            tokio::time::sleep(KNOWN_EVERY).await;
        }
        Ok(Stepped::Told)
    }

    async fn ask<A: Ask<Message = HostMsg>>(&self, host: HostId, within: Duration, ask: A) -> Result<A::Answer, DriverError> {
        let asked = self.services.ask(Deadline::after(within), host, ask).await;
        asked.map_err(|refused| DriverError::Unreachable { message: format!("the host's actor: {}", refused.message) })
    }

    async fn there<A: Ask<Message = HostMsg, Answer = Result<(), DriverError>>>(&self, within: Duration, ask: A) -> StepResult {
        let Some(to) = self.to() else { return failed("no room is reserved for it") };
        // That the other host cannot be reached says nothing of this one.
        match self.ask(to, within, ask).await {
            Ok(Ok(())) => Ok(Stepped::Told),
            Ok(Err(DriverError::Refused { message })) => Err(DriverError::Refused { message }),
            Ok(Err(error)) | Err(error) => failed(format!("the other host: {error}")),
        }
    }

    async fn peek(&self, host: HostId) -> Result<Peeked, DriverError> {
        let vm = self.spec.id;
        self.ask(host, PEEK_WITHIN, host::Peek { vm }).await?
    }

    /// Whether it is certain that nothing of a VM that comes back runs there.
    fn is_off(&self, host: HostId) -> bool {
        self.spec.ha && self.services.directory.read(|known| known.fleet.hosts.get(&host).is_some_and(is_off))
    }

    async fn compare(&self) -> StepResult {
        let Some(to) = self.to() else { return failed("no room is reserved for it") };
        let under_way = self.peek(self.host).await?.under_way;
        let there = match self.peek(to).await {
            Ok(peeked) => peeked.domain.map_or(There::Absent, |domain| There::Is(domain.run)),
            Err(_) if self.is_off(to) => There::Absent,
            Err(_) => There::Unknown,
        };
        let Peeked { domain, at, .. } = self.peek(self.host).await?;
        Ok(Stepped::Compared(Compared { under_way, there }, Done { domain, at }))
    }

    /// Asks every host that could have it.
    async fn seek(&self) -> StepResult {
        // It may be here again.
        if self.peek(self.host).await?.domain.is_some_and(|domain| domain.run.is_on()) {
            return Ok(Stepped::Sought(Ok(Sought::Nowhere)));
        }
        let (epoch, hosts): (u64, Vec<(HostId, Arc<str>, bool)>) = self.services.directory.read(|known| {
            let scheme = |entry: &HostEntry| HostUri::parse(&entry.spec.uri).ok().filter(HostUri::can_move).map(|uri| uri.scheme);
            let mine = known.fleet.hosts.get(&self.host).and_then(scheme);
            let asked = known
                .fleet
                .hosts
                .iter()
                .filter(|(host, entry)| **host != self.host && !is_off(entry) && mine.is_some() && scheme(entry) == mine);
            let asked = asked.map(|(host, entry)| {
                (*host, entry.spec.name.as_str().into(), entry.unreachable.is_none() && entry.lost.is_none())
            });
            (known.fleet.vms.get(&self.spec.id).map_or(0, |entry| entry.epoch), asked.collect())
        });
        let mut silent: BTreeSet<Arc<str>> = hosts.iter().map(|(_, name, _)| name.clone()).collect();
        let looks = hosts.into_iter().filter(|(.., answers)| *answers).map(|(host, name, _)| async move {
            let Peeked { domain, other, .. } = self.peek(host).await.ok()?;
            let has = |domain: &Domain| domain.run.is_on() && domain.epoch == epoch;
            Some((name, domain.iter().chain(&other).any(has).then_some(host)))
        });
        let mut looks = std::pin::pin!(futures_util::stream::iter(looks).buffer_unordered(SEEKS_AT_ONCE));
        let until = tokio::time::Instant::now() + SEEK_WITHIN;
        while let Ok(Some(said)) = tokio::time::timeout_at(until, looks.next()).await {
            match said {
                Some((_, Some(host))) => return Ok(Stepped::Sought(Ok(Sought::On(host)))),
                Some((name, None)) => _ = silent.remove(&name),
                None => {}
            }
        }
        // What lived for one attempt is made anew for the next, under another id.
        if silent.is_empty() || self.spec.is_leased() {
            return Ok(Stepped::Sought(Ok(Sought::Nowhere)));
        }
        Ok(Stepped::Sought(Err(withheld(&self.spec.name, &silent))))
    }

    async fn follow(&self) -> StepResult {
        let Some(Sought::On(to)) = self.sought else { return failed("where it is is not known") };
        let (vm, from) = (self.spec.id, self.host);
        tracing::warn!(vm = %self.spec.name, %from, %to, "somebody moved it to another host, which has it from now on");
        ask_roster(self.services, FleetChange::FoundVm { vm, from, to }, Deadline::after(ROSTER_WITHIN)).await.map_err(error)?;
        Ok(Stepped::Told)
    }

    async fn migrate(&self) -> StepResult {
        let refused = |message: &str| Err(DriverError::Refused { message: message.into() });
        let (Some(to), Some(asked)) = (self.to(), self.asked) else { return refused("where to is not known") };
        let Some(other) = self.services.directory.read(|known| known.fleet.hosts.get(&to).map(|entry| entry.spec.clone())) else {
            return refused("the other host is not known");
        };
        let epoch = self.services.directory.read(|known| known.fleet.vms.get(&self.spec.id).map_or(0, |entry| entry.epoch));
        let here = self.services.directory.location(Entity::Host(to)).is_some_and(|at| at.node == self.services.me.node);
        let local = HostUri::parse(&other.uri).is_ok_and(|uri| uri.is_local());
        let (uri, peer) = match &other.peer_uri {
            Some(peer) => (peer.clone(), true),
            None if local && !here => {
                return refused("the other host is known under a URI of its own node's: register it with `--peer-uri`");
            }
            None => (other.uri.clone(), false),
        };
        let migration = Box::new(Migration {
            to,
            uri,
            peer,
            pool: other.pool.clone(),
            name: domain_name(&self.spec.name, epoch),
            live: asked.live,
            bandwidth_mib: asked.bandwidth_mib,
            limit_ms: asked.limit_ms,
            at_limit: asked.at_limit.into(),
        });
        let Some(door) = self.services.doors.of::<HostMsg>(self.host) else { return failed("its host has no actor now") };
        // Others may go first.
        let within = QUEUED_WITHIN + Duration::from_millis(asked.limit_ms.saturating_mul(2)) + MARGIN;
        let (vm, deadline) = (self.spec.id, Deadline::after(within));
        let ended = door.ask(deadline, |reply| HostMsg::Migrate { vm, migration: migration.clone(), reply }).await;
        match ended {
            Ok(Ok(measured)) => Ok(Stepped::Moved(measured)),
            Ok(Err(error)) => Err(error),
            Err(error) => failed(format!("its host's actor: {error}")),
        }
    }
}

//! The `cluster` section of the configuration: where peers reach this node, and how patient the cluster is.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use hiveward_actors::cluster::{ClusterConfig, JoinTarget};
use hiveward_runtime::{
    cluster::{lease::LeaseTerms, membership::voters::VoterPolicy},
    ledger::RaftTiming,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PORT: u16 = 7701;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSection {
    /// Where other nodes connect, always with mutual TLS. `null`: this node has no peers.
    pub listen: Option<SocketAddr>,
    /// `host:port` that other nodes dial; found out if absent.
    pub advertise: Option<String>,
    /// What entities may ask for in a node.
    pub labels: BTreeMap<String, String>,
    /// Entities of one swarm are spread over zones.
    pub zone: Option<String>,
    /// How long a node may act after it last heard from the leader; a node that stays silent longer is declared lost.
    pub lease_ms: u64,
    /// How long before the end of its lease a node begins to stop what it holds.
    pub stop_within_ms: u64,
    /// A leader writes to every member this often.
    pub heartbeat_ms: u64,
    /// A leader that was silent for this long is replaced.
    pub election_ms: u64,
    /// Nodes that vote, at most; an odd number.
    pub voters_max: usize,
    /// A voter that is away for longer is replaced by a node that does not vote yet.
    pub replace_voter_after_ms: u64,
}

impl Default for ClusterSection {
    fn default() -> Self {
        let (lease, raft, voters) = (LeaseTerms::default(), RaftTiming::default(), VoterPolicy::default());
        Self {
            listen: Some(SocketAddr::from(([0, 0, 0, 0], PORT))),
            advertise: None,
            labels: BTreeMap::new(),
            zone: None,
            lease_ms: millis(lease.length),
            stop_within_ms: millis(lease.stop_within),
            heartbeat_ms: millis(raft.heartbeat),
            election_ms: millis(raft.lease),
            voters_max: voters.voters_max,
            replace_voter_after_ms: millis(voters.replace_after),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl ClusterSection {
    /// Returns what a node needs of it; `None` for one without peers. The error names the field.
    pub fn config(&self, join: Option<JoinTarget>) -> Result<Option<ClusterConfig>, String> {
        let Some(listen) = self.listen else {
            return match join {
                Some(_) => Err("cluster.listen: a node that joins must listen for its peers".into()),
                None => Ok(None),
            };
        };
        if listen.port() == 0 {
            return Err("cluster.listen: peers need a fixed port".into());
        }
        let at_least = |field: &str, value: u64, least: u64| {
            if value < least {
                Err(format!("cluster.{field}: {value} is too little, at least {least} is needed"))
            } else {
                Ok(())
            }
        };
        at_least("heartbeat_ms", self.heartbeat_ms, 20)?;
        at_least("election_ms", self.election_ms, self.heartbeat_ms.saturating_mul(2))?;
        at_least("lease_ms", self.lease_ms, self.election_ms.saturating_mul(2))?;
        at_least("stop_within_ms", self.stop_within_ms, 1)?;
        if self.stop_within_ms.saturating_mul(2) > self.lease_ms {
            return Err("cluster.stop_within_ms: at most half of lease_ms".into());
        }
        if self.voters_max.is_multiple_of(2) || self.voters_max > 7 {
            return Err(format!("cluster.voters_max: {} is not one of 1, 3, 5 and 7", self.voters_max));
        }
        if let Some(address) = &self.advertise
            && address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            return Err(format!("cluster.advertise: {address:?} is not host:port"));
        }
        let of = Duration::from_millis;
        Ok(Some(ClusterConfig {
            listen,
            advertise: self.advertise.clone(),
            join,
            lease: LeaseTerms { length: of(self.lease_ms), stop_within: of(self.stop_within_ms) },
            voters: VoterPolicy { voters_max: self.voters_max, replace_after: of(self.replace_voter_after_ms) },
            raft: RaftTiming { heartbeat: of(self.heartbeat_ms), lease: of(self.election_ms) },
            labels: self.labels.clone(),
            zone: self.zone.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let refused = |change: &dyn Fn(&mut ClusterSection)| {
            let mut section = ClusterSection::default();
            change(&mut section);
            section.config(None).unwrap_err()
        };
        assert!(refused(&|section| section.voters_max = 4).contains("voters_max"));
        assert!(refused(&|section| section.lease_ms = 500).contains("lease_ms"));
        assert!(refused(&|section| section.stop_within_ms = 7_000).contains("stop_within_ms"));
        assert!(refused(&|section| section.advertise = Some("host".into())).contains("advertise"));
        assert!(ClusterSection::default().config(None).unwrap().is_some());
        assert!(ClusterSection { listen: None, ..ClusterSection::default() }.config(None).unwrap().is_none());
    }
}
